"""The calls of the Vision service: every method, its parameters within and out of bounds, and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.golden.rpc import VISION, Img, Rpc

SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
SHAPES = Img("shapes-png")


def all_cases() -> list[Rpc]:
    """Every call, each with a name of its own."""
    cases = [
        *_images(),
        *_wrong(),
        *_verify(),
        *_compare(),
        *_identify(),
        *_stylize(),
        *_streams(),
        *_others(),
    ]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases


def _call(method: str, note: str = "", timeout: float = 60, /, **fields: Any) -> Rpc:
    told = []
    for key, value in fields.items():
        told.append(
            f"{key}={value.name if isinstance(value, Img) else value}" if key != "image" else value.name
        )
    return Rpc(
        " ".join(filter(None, (method, note or " ".join(told)))), VISION, method, [fields], (), timeout
    )


def _images() -> Iterator[Rpc]:
    yield from (
        _call("Classify", image=Img(name), top_k=1) for name in ("gradient-jpeg", "turned-6", "shapes-webp")
    )
    yield from (
        _call("Classify", image=Img(name)) for name in ("text-1", "cut-1", "empty-1", "large-1", "pixels-1")
    )
    yield _call("Classify", image=Img("dog"), top_k=3)
    yield _call("Classify", image=Img("digit-7"), model="lenet5", top_k=2)
    yield _call("Classify", "no fields")
    yield _call("Embed", image=Img("digit-7"), model="lenet5")
    yield _call("Analyze", image=Img("two_people"), tasks=["classify", "detect"])
    yield _call("Analyze", image=SHAPES, tasks=["classify", "nothing"])
    yield _call("Analyze", image=SHAPES, classify={"model": "nothing"}, detect={"max_detections": 1})
    yield _call("Analyze", image=SHAPES, detect={"score_threshold": 2})
    yield _call("Classify", "in no time", 0.0001, image=SHAPES)
    for name in ("shapes-png", "person", "two_people"):
        yield _call("Detect", image=Img(name))
    yield _call("Detect", image=Img("person"), score_threshold=0.95, model="yolo-person")
    yield _call("Detect", image=Img("two_people"), iou_threshold=0.3, max_detections=1, classes=["person"])
    for method in ("DetectFaces", "EmbedFaces"):
        yield _call(method, image=SHAPES)
        yield _call(method, image=Img("two_people"), max_faces=1)
        yield _call(method, image=Img("two_people"), min_size=4000)
        yield _call(method, image=Img("obama"), score_threshold=0.99, min_size=20, model="mtcnn")
    yield _call("DetectFaces", image=Img("two_people"))


def _wrong() -> Iterator[Rpc]:
    for method in ("Classify", "Detect", "DetectFaces", "EmbedFaces", "Stylize"):
        yield _call(method, image=SHAPES, model="nothing")
    yield from (_call("Classify", image=SHAPES, top_k=value) for value in (0, 1001))
    for name in ("score_threshold", "iou_threshold"):
        yield from (_call("Detect", image=SHAPES, **{name: value}) for value in (-0.01, 1.01, "NaN"))
    yield from (_call("Detect", image=SHAPES, max_detections=value) for value in (0, 1001))
    yield _call("Detect", image=SHAPES, classes=["person", "nothing"])
    for method in ("DetectFaces", "EmbedFaces"):
        for value in (-0.01, 1.01):
            yield _call(method, image=SHAPES, score_threshold=value)
        yield _call(method, image=SHAPES, min_size=-1)
        yield from (_call(method, image=SHAPES, max_faces=value) for value in (0, 1001))
    yield _call("EmbedFaces", image=SHAPES, embedder="mtcnn")
    yield _call("Stylize", image=SHAPES, style="nothing")
    yield from (_call("Stylize", image=SHAPES, strength=value) for value in (-0.01, 1.01))
    yield _call("Stylize", image=SHAPES, format=99)


def _verify() -> Iterator[Rpc]:
    obama, other = Img("obama"), Img("biden")
    yield _call("VerifyFaces", a=obama, b=Img("obama2"))
    yield _call("VerifyFaces", a=obama, b=other, threshold=10, embedder="dlib-resnet", model="mtcnn")
    yield _call("VerifyFaces", a=obama, b=other)
    yield _call("VerifyFaces", a=Img("two_people"), b=obama, face_select="FACE_SELECT_LARGEST")
    yield _call("VerifyFaces", a=Img("two_people"), b=obama, face_select="FACE_SELECT_ONLY")
    yield _call("VerifyFaces", a=SHAPES, b=SHAPES)
    yield _call("VerifyFaces", a=SHAPES, b=Img("text-1"))
    yield _call("VerifyFaces", a=SHAPES)
    yield _call("VerifyFaces", a=SHAPES, b=SHAPES, face_select=99)
    yield _call("VerifyFaces", a=SHAPES, b=SHAPES, embedder="nothing")
    yield from (_call("VerifyFaces", a=SHAPES, b=SHAPES, threshold=value) for value in (-0.1, 10.1))


def _compare() -> Iterator[Rpc]:
    def side(first: float, sha256: str = SHA256, count: int = 128) -> dict[str, Any]:
        numbers = [first, *[0.01] * (count - 1)] if count else []
        return {"embedding": numbers, "model": {"name": "dlib-resnet", "sha256": sha256}}

    near = {"a": side(0.1), "b": side(0.3)}
    yield _call("CompareFaces", "near", **near)
    yield _call("CompareFaces", "far", a=side(0.1), b=side(0.9))
    yield _call("CompareFaces", "threshold 0.1", **near, threshold=0.1, embedder="dlib-resnet")
    yield from (
        _call("CompareFaces", f"threshold {value}", **near, threshold=value) for value in (-0.1, 10.1)
    )
    yield _call("CompareFaces", "no embedder", **near, embedder="mtcnn")
    yield _call("CompareFaces", "another digest", a=side(0.1), b=side(0.3, "0" * 64))
    yield _call("CompareFaces", "another length", a=side(0.1), b=side(0.3, count=127))
    yield _call("CompareFaces", "empty", a=side(0.1), b=side(0, count=0))
    yield _call("CompareFaces", "nothing")


def _identify() -> Iterator[Rpc]:
    gallery = [{"name": str(first), "embedding": [first, *[0.01] * 127]} for first in (0.9, 0.2, 0.3)]
    probe = [0.1, *[0.01] * 127]
    yield _call("IdentifyFace", "three", embedding=probe, gallery=gallery)
    yield _call("IdentifyFace", "the nearest", embedding=probe, gallery=gallery, threshold=0.15, top_k=1)
    yield _call("IdentifyFace", "no face", image=SHAPES, gallery=gallery)
    yield _call("IdentifyFace", "another length", embedding=probe[1:], gallery=gallery)
    yield _call("IdentifyFace", "no gallery", embedding=probe)


def _stylize() -> Iterator[Rpc]:
    yield _call("Stylize", image=SHAPES)
    yield _call("Stylize", image=SHAPES, style="the_scream", strength=0.4, model="paintings")
    for kind in ("PICTURE_FORMAT_JPEG", "PICTURE_FORMAT_PNG", "PICTURE_FORMAT_WEBP"):
        yield _call("Stylize", image=SHAPES, strength=0, format=kind)
    yield _call("Stylize", image=Img("text-1"))


def _streams() -> Iterator[Rpc]:
    frames = [{"image": Img(name), "top_k": 1} for name in ("shapes-png", "text-1", "gradient-jpeg")]
    yield Rpc("ClassifyStream", VISION, "ClassifyStream", [*frames, {"image": SHAPES, "top_k": 0}])
    frames = [{"image": Img(name), "max_detections": 2} for name in ("person", "cut-1", "two_people")]
    yield Rpc("DetectStream", VISION, "DetectStream", frames)
    yield Rpc("DetectStream without a frame", VISION, "DetectStream", [])


def _others() -> Iterator[Rpc]:
    yield _call("ListStyles")
    yield _call("ListModels")
    for name in (
        "efficientnet-lite0",
        "lenet5",
        "yolo-person",
        "mtcnn",
        "dlib-resnet",
        "paintings",
        "nothing",
    ):
        yield _call("GetModel", name=name)
    yield Rpc("Nothing", VISION, "Nothing", [b""])
    health = "grpc.health.v1.Health"
    for service in ("", VISION, "inference.GRPCInferenceService", "nothing"):
        yield Rpc(f"health {service}", health, "Check", [{"service": service}])
