"""The requests over HTTP: every route below /v1, its parameters within and out of bounds, and its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.golden.http import Http, Part, document, form, get, raw, text

CLASSIFY, EXPLAIN, DETECT = "/v1/classify", "/v1/classify/explain", "/v1/detect"
FACES = "/v1/faces/detect"
EMBED, VERIFY, COMPARE = "/v1/faces/embed", "/v1/faces/verify", "/v1/faces/compare"
IDENTIFY = "/v1/faces/identify"
STYLIZE, JOBS = "/v1/stylize", "/v1/stylize/jobs"
JSON, PNG, WEBP, JPEG = (
    {"accept": kind} for kind in ("application/json", "image/png", "image/webp", "image/jpeg")
)
FORMATS = [
    "gradient-jpeg",
    "gradient-progressive",
    "gradient-cmyk",
    "gradient-grey",
    "gradient-png",
    "gradient-palette",
    "gradient-bilevel",
    "gradient-sixteen",
    "gradient-rgba",
    "gradient-webp",
    "gradient-webpalpha",
    "gradient-bmp",
    "turned-6",
]
REFUSED = ("gif-1", "cut-1", "text-1", "empty-1", "large-1", "pixels-1")
WRONG: dict[str, list[tuple[str, Mapping[str, Any]]]] = {
    CLASSIFY: [
        *(("shapes-png", {"top_k": value}) for value in (0, -1, 1001, "many", "", 2.5)),
        *(("shapes-png", {"model": value}) for value in ("nothing", "yolo-person", "")),
        ("shapes-png", {"model": "lenet5", "top_k": 11}),
    ],
    EXPLAIN: [
        ("shapes-png", {"model": "nothing"}),
        ("shapes-png", {"label": "nothing"}),
        ("shapes-png", {"label": 1000}),
        ("shapes-png", {"kind": "rays"}),
        *(("shapes-png", {"kind": "windows", "fraction": value}) for value in (0, 1.01, "wide", "nan")),
        *(("shapes-png", {"score_threshold": value}) for value in (-0.01, 1.01, "low")),
    ],
    DETECT: [
        *(("shapes-png", {"score_threshold": value}) for value in (-0.01, 1.01, "low", "nan")),
        *(("shapes-png", {"iou_threshold": value}) for value in (-0.01, 1.01, "low")),
        *(("shapes-png", {"max_detections": value}) for value in (0, 1001, "many")),
        ("shapes-png", {"classes": "person,nothing"}),
        ("shapes-png", {"classes": ""}),
        ("shapes-png", {"box_format": "yxyx"}),
        ("shapes-png", {"normalized": "perhaps"}),
        ("shapes-png", {"model": "lenet5"}),
    ],
    FACES: [
        *(("shapes-png", {"score_threshold": value}) for value in (-0.01, 1.01, "low")),
        *(("shapes-png", {"min_size": value}) for value in (-1, "small", "inf")),
        *(("shapes-png", {"max_faces": value}) for value in (0, 1001, "many")),
        ("shapes-png", {"model": "yolo-person"}),
    ],
    EMBED: [
        *(("shapes-png", {"score_threshold": value}) for value in (-0.01, 1.01)),
        *(("shapes-png", {"min_size": value}) for value in (-1, "small")),
        *(("shapes-png", {"max_faces": value}) for value in (0, 1001)),
        ("shapes-png", {"model": "nothing"}),
        ("shapes-png", {"embedder": "mtcnn"}),
    ],
    STYLIZE: [
        ("shapes-png", {"style": "nothing"}),
        ("shapes-png", {"style": ""}),
        *(("shapes-png", {"strength": value}) for value in (-0.01, 1.01, "strong")),
        ("shapes-png", {"model": "lenet5"}),
    ],
}


def all_cases() -> list[Http]:
    """Every request, each with a name of its own."""
    cases = [
        *_classify(),
        *_embed(),
        *_analyze(),
        *_explain(),
        *_detect(),
        *_faces(),
        *_verify(),
        *_stylize(),
        *_jobs(),
        *_others(),
        *(raw(path, image, params) for path, wrong in WRONG.items() for image, params in wrong),
    ]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases


def _embed() -> Iterator[Http]:
    yield raw("/v1/embed", "digit-7", {"model": "lenet5"})
    yield raw("/v1/embed", "shapes-png", {"model": "yolo-person"})
    yield raw("/v1/embed", "text-1")


def _analyze() -> Iterator[Http]:
    yield raw("/v1/analyze", "two_people", {"classify.top_k": 2, "faces_embed.max_faces": 1})
    yield raw("/v1/analyze", "digit-7", {"tasks": "embed,classify", "embed.model": "lenet5"})
    yield raw("/v1/analyze", "shapes-png", {"tasks": "classify,faces_detect", "classify.model": "nothing"})
    yield raw("/v1/analyze", "text-1")
    yield raw("/v1/analyze", "shapes-png", {"tasks": "classify,stylize"})
    yield raw("/v1/analyze", "shapes-png", {"detect.score_threshold": 2})


def _classify() -> Iterator[Http]:
    yield from (raw(CLASSIFY, name, {"top_k": 1}) for name in (*FORMATS, *REFUSED))
    yield raw(CLASSIFY, "shapes-jpeg")
    yield raw(CLASSIFY, "shapes-png", {"model": "efficientnet-lite0", "top_k": 2})
    yield from (raw(CLASSIFY, f"digit-{n}", {"model": "lenet5", "top_k": 3}) for n in range(10))
    yield raw(CLASSIFY, "dog", {"top_k": 3})
    kinds = "image/jpeg image/png image/webp image/bmp image/x-ms-bmp text/plain image/tiff application/xml"
    yield from (raw(CLASSIFY, "shapes-png", {"top_k": 1}, kind=kind, note=kind) for kind in kinds.split())
    yield raw(CLASSIFY, "shapes-png", {"top_k": 1}, kind="image/png; charset=x", note="type with a parameter")
    yield raw(CLASSIFY, "shapes-png", {"top_k": 1}, headers={"content-encoding": "br"}, note="encoded")
    for value in ("0", "-1", "soon", "inf", "nan"):
        yield raw(CLASSIFY, "shapes-png", headers={"x-timeout-ms": value}, note=f"in {value} ms")
    yield raw(CLASSIFY, "shapes-png", {"top_k": 1}, headers={"x-timeout-ms": "0.001"}, note="in no time")
    yield raw(CLASSIFY, "shapes-png", {"top_k": 1}, headers={"x-timeout-ms": "20000.5"}, note="in time")
    several = [("image", name) for name in ("shapes-png", "text-1", "gradient-jpeg", "cut-1")]
    yield form(CLASSIFY, several, {"top_k": 1}, note="two good and two bad")
    yield form(CLASSIFY, [("image", "text-1"), ("image", "cut-1")], note="only bad")
    yield form(CLASSIFY, [("image", "shapes-png")], {"top_k": 1}, note="one")
    yield form(CLASSIFY, [("image", "shapes-png")] * 8, {"top_k": 1}, note="as many as allowed")
    yield form(CLASSIFY, [("image", "shapes-png")] * 9, {"top_k": 1}, note="one too many")
    yield form(CLASSIFY, [("image", "shapes-png")] * 2, {"model": "nothing"}, note="unknown model")
    yield form(CLASSIFY, [("image", "shapes-png")] * 2, {"top_k": 1001}, note="top_k beyond the classes")
    yield form(CLASSIFY, [("photo", "shapes-png")], note="another name")
    yield form(CLASSIFY, [], note="no parts")
    yield form(CLASSIFY, [Part("image", b"some text")], note="text")
    bare = {"content-type": "multipart/form-data"}
    yield form(CLASSIFY, [("image", "shapes-png")], headers=bare, note="no boundary")
    other = {"content-type": "multipart/form-data; boundary=other"}
    yield form(CLASSIFY, [("image", "shapes-png")], headers=other, note="another boundary")
    shapes = text("shapes-png")
    yield document(CLASSIFY, {"image": shapes}, {"top_k": 1}, note="base64")
    yield document(CLASSIFY, {"image": f"data:image/png;base64,{shapes}"}, {"top_k": 1}, note="data URL")
    yield document(CLASSIFY, {"image": "%%%"}, note="no base64")
    yield document(CLASSIFY, {"image": ""}, note="empty")
    yield document(CLASSIFY, {"image": 5}, note="a number")
    yield document(CLASSIFY, {"image": None}, note="null")
    yield document(CLASSIFY, {}, note="nothing")
    yield document(CLASSIFY, [shapes], note="a list")
    yield document(CLASSIFY, b"{", note="malformed")
    yield document(CLASSIFY, b"", note="no bytes")


def _explain() -> Iterator[Http]:
    yield raw(EXPLAIN, "shapes-png", headers=JSON, note="JSON")
    yield raw(EXPLAIN, "shapes-png")
    for accept in (PNG, WEBP, JPEG):
        yield raw(EXPLAIN, "dog", {"kind": "cam"}, headers=accept, note=accept["accept"])
    yield raw(EXPLAIN, "dog", {"label": "malamute"}, headers=JSON, note="JSON")
    yield raw(EXPLAIN, "dog", {"label": 235}, headers=JSON, note="JSON")
    yield raw(EXPLAIN, "digit-3", {"model": "lenet5"}, headers=JSON, note="JSON")
    channels = {"kind": "activations", "model": "lenet5", "layer": "features.0", "top": 3}
    yield raw(EXPLAIN, "digit-3", channels, headers=JSON, note="JSON")
    yield raw(EXPLAIN, "digit-3", channels | {"layer": "feature.0"}, headers=JSON, note="JSON")
    yield raw(EXPLAIN, "digit-3", {"kind": "saliency", "model": "lenet5"}, headers=JSON, note="JSON")
    yield raw(EXPLAIN, "digit-3", {"kind": "occlusion", "model": "lenet5"}, headers=JSON, note="JSON")
    windows = {"kind": "windows", "fraction": 0.6, "score_threshold": 0.3, "label": 235}
    yield raw(EXPLAIN, "dog", windows, headers=JSON, note="JSON")
    yield raw(EXPLAIN, "dog", windows, headers=PNG, note="image/png")
    yield raw(EXPLAIN, "shapes-png", {"kind": "windows"}, headers=JSON, note="JSON")
    yield raw(EXPLAIN, "shapes-png", {"kind": "windows", "fraction": 1, "model": "efficientnet-lite0"})
    yield from (raw(EXPLAIN, name) for name in ("text-1", "pixels-1"))
    yield form(EXPLAIN, [("image", "shapes-png")] * 2, note="two")
    yield document(EXPLAIN, {"image": text("shapes-png")}, headers=JSON, note="base64")


def _detect() -> Iterator[Http]:
    person = "person"
    yield from (raw(DETECT, name) for name in ("shapes-png", person, "two_people", "text-1", "large-1"))
    yield raw(DETECT, person, {"score_threshold": 0.95})
    yield raw(DETECT, "two_people", {"score_threshold": 0.5, "iou_threshold": 0.3, "max_detections": 1})
    yield raw(DETECT, "two_people", {"classes": "person", "model": "yolo-person"})
    yield raw(DETECT, "two_people", {"classes": "person, person"})
    for box in ("xyxy", "xywh", "cxcywh"):
        for normalized in ("true", "false"):
            yield raw(DETECT, person, {"box_format": box, "normalized": normalized})
    for accept in (PNG, WEBP, JPEG, {"accept": "image/*"}, {"accept": "image/png;q=0.5, image/webp"}):
        yield raw(DETECT, person, headers=accept, note=accept["accept"])
    yield raw(DETECT, "shapes-png", headers=PNG, note="image/png")
    yield raw(DETECT, "shapes-png", headers=JSON, note="JSON")
    yield form(DETECT, [("image", person), ("image", "text-1"), ("image", "two_people")], note="several")
    yield form(DETECT, [("image", "shapes-png")] * 2, headers=PNG, note="several, image/png")
    yield form(DETECT, [("image", person)], headers=PNG, note="one, image/png")
    yield document(DETECT, {"image": text(person)}, {"normalized": 1}, needs=[person], note="base64")


def _faces() -> Iterator[Http]:
    for path in (FACES, EMBED):
        yield from (raw(path, name) for name in ("shapes-png", "text-1", "pixels-1"))
        yield raw(path, "two_people", {"max_faces": 1})
        yield raw(path, "two_people", {"min_size": 4000})
        yield raw(path, "obama", {"rotate": "none"})
        yield raw(path, "obama", {"score_threshold": 0.99, "model": "mtcnn", "min_size": 20})
        yield form(path, [("image", "shapes-png"), ("image", "text-1")], note="a good and a bad one")
        yield document(path, {"image": text("shapes-png")}, note="base64")
    yield raw(EMBED, "chip-1", {"aligned": 1})
    yield raw(FACES, "two_people")
    yield raw(FACES, "obama", {"score_threshold": 1})
    for accept in (PNG, JPEG):
        yield raw(FACES, "two_people", headers=accept, note=accept["accept"])
    yield raw(EMBED, "biden", {"embedder": "dlib-resnet", "max_faces": 1}, headers=PNG, note="image/png")


def _verify() -> Iterator[Http]:
    pair, others = [("a", "obama"), ("b", "obama2")], [("a", "obama"), ("b", "biden")]
    yield form(VERIFY, pair, note="one person")
    yield form(VERIFY, others, note="two persons")
    yield form(
        VERIFY, others, {"threshold": 10, "embedder": "dlib-resnet", "model": "mtcnn"}, note="any distance"
    )
    yield form(VERIFY, pair, {"threshold": 0}, note="no distance")
    yield form(VERIFY, pair, {"min_size": 40, "rotate": "none"}, note="upright and large")
    for value in (-0.1, 10.1, "near"):
        yield form(
            VERIFY,
            [("a", "shapes-png"), ("b", "shapes-png")],
            {"threshold": value},
            note=f"threshold {value}",
        )
    several = [("a", "two_people"), ("b", "obama")]
    yield form(VERIFY, several, {"face_select": "largest"}, note="the largest of two")
    yield form(VERIFY, several, {"face_select": "only"}, note="two, only one allowed")
    shapes = [("a", "shapes-png"), ("b", "shapes-png")]
    yield form(VERIFY, shapes, note="no face")
    yield form(VERIFY, shapes, {"face_select": "both"}, note="unknown face_select")
    yield form(VERIFY, shapes, {"embedder": "nothing"}, note="unknown embedder")
    yield form(VERIFY, shapes, {"model": "nothing"}, note="unknown model")
    yield form(VERIFY, [("a", "shapes-png")], note="b is missing")
    yield form(VERIFY, [*shapes, ("b", "shapes-png")], note="two of b")
    yield form(VERIFY, [("a", "shapes-png"), ("b", "text-1")], note="b is no image")
    yield document(
        VERIFY, {"a": text("obama"), "b": text("obama2")}, needs=["obama", "obama2"], note="base64"
    )
    yield document(VERIFY, {"a": text("shapes-png")}, note="b is missing")
    yield document(VERIFY, {"a": text("shapes-png"), "b": "%"}, note="b is no base64")
    yield raw(VERIFY, "shapes-png", note="as the body")
    yield from _compare()
    yield from _identify()


SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"


def _identify() -> Iterator[Http]:
    def known(*firsts: float, count: int = 128) -> dict[str, Any]:
        vectors = {f"person {number}": [first, *[0.01] * (count - 1)] for number, first in enumerate(firsts)}
        return {"gallery": [{"name": name, "embedding": vector} for name, vector in vectors.items()]}

    probe = {"embedding": [0.1, *[0.01] * 127]}
    yield document(IDENTIFY, {**probe, **known(0.9, 0.2, 0.3)}, note="three")
    options = {"threshold": 0.15, "top_k": 2, "embedder": "dlib-resnet", "sha256": SHA256}
    yield document(IDENTIFY, {**probe, **known(0.9, 0.2, 0.3)}, options, note="the nearest two")
    face = {"image": text("obama"), **known(0.1)}
    search = {"model": "mtcnn", "face_select": "only", "min_size": 40, "rotate": "none"}
    yield document(IDENTIFY, face, search, needs=["obama"], note="an image")
    yield document(IDENTIFY, {"image": text("shapes-png"), **known(0.1)}, note="no face")
    yield document(IDENTIFY, {**face, **probe}, needs=["obama"], note="an image and an embedding")
    yield document(IDENTIFY, known(0.1), note="neither")
    yield document(IDENTIFY, {**probe, "gallery": []}, note="no gallery")
    yield document(IDENTIFY, {**probe, **known(0.1, count=127)}, note="another length")
    yield document(IDENTIFY, {**probe, **known(0.1)}, {"sha256": "0" * 64}, note="another digest")
    yield document(IDENTIFY, {**probe, **known(0.1)}, {"top_k": 1001}, note="more than there may be")


def _compare() -> Iterator[Http]:
    def side(first: float, sha: str = SHA256, count: int = 128) -> dict[str, Any]:
        return {"embedding": [first, *[0.01] * (count - 1)], "model": {"name": "dlib-resnet", "sha256": sha}}

    near = {"a": side(0.1), "b": side(0.3)}
    yield document(COMPARE, near, note="near")
    yield document(COMPARE, {"a": side(0.1), "b": side(0.9)}, note="far")
    yield document(COMPARE, near, {"threshold": 0.1, "embedder": "dlib-resnet"}, note="threshold 0.1")
    for value in (-0.1, 10.1, "near"):
        yield document(COMPARE, near, {"threshold": value}, note=f"threshold {value}")
    yield document(COMPARE, near, {"embedder": "mtcnn"}, note="no embedder")
    yield document(COMPARE, {"a": side(0.1), "b": side(0.3, "0" * 64)}, note="another digest")
    yield document(COMPARE, {"a": side(0.1, "0" * 64), "b": side(0.3, "0" * 64)}, note="unknown digests")
    yield document(COMPARE, {"a": side(0.1, "short"), "b": side(0.3)}, note="no digest")
    yield document(COMPARE, {"a": side(0.1), "b": side(0.3, count=127)}, note="another length")
    yield document(COMPARE, {"a": side(0.1), "b": {"embedding": [], "model": side(0)["model"]}}, note="empty")
    yield document(COMPARE, {"a": side(0.1), "b": {**side(0.3), "embedding": ["x"] * 128}}, note="texts")
    yield document(COMPARE, {"a": side(0.1)}, note="b is missing")
    yield document(COMPARE, {**near, "c": 1}, note="an unknown key")
    yield document(COMPARE, b"[", note="malformed")
    yield document(COMPARE, near, headers={"content-type": "text/plain"}, note="as text")
    yield document(COMPARE, b" " * (1024 * 1024 + 1), note="too long")


def _stylize() -> Iterator[Http]:
    for name in ("udnie", "great_wave", "shipwreck", "starry_night", "the_scream"):
        yield raw(STYLIZE, "shapes-png", {"style": name})
    yield raw(STYLIZE, "shapes-png", {"style": "great_wave", "strength": 0.4, "model": "paintings"})
    yield raw(STYLIZE, "shapes-png", {"strength": 0})
    yield raw(STYLIZE, "turned-6", headers=PNG, note="image/png")
    yield raw(STYLIZE, "gradient-rgba", headers=WEBP, note="image/webp")
    yield raw(STYLIZE, "shapes-png", headers=JSON, note="JSON")
    yield from (raw(STYLIZE, name) for name in ("text-1", "pixels-1"))
    yield form(STYLIZE, [("image", "shapes-png")] * 2, note="two")
    yield form(STYLIZE, [("image", "shapes-png")], note="one")
    yield document(STYLIZE, {"image": text("shapes-png")}, note="base64")
    yield get("/v1/styles")
    for name in ("great_wave", "nothing"):
        yield get(f"/v1/styles/{name}/thumbnail")


def _jobs() -> Iterator[Http]:
    """What is refused; a job's life is in `jobs`."""
    pair = [("content", "shapes-png"), ("style", "gradient-png")]
    wrong: dict[str, tuple[object, ...]] = {
        "size": (63, 1025, "large"),
        "steps": (0, 1001, 1.5),
        "style_size": (63, 1025),
        "content_weight": (-0.1, 1000001, "heavy"),
        "style_weight": (-0.1, 1000001),
        "variation_weight": (-0.1, 1000001),
        "brightness_weight": (-0.1, 1000001),
        "levels": (0, 5),
        "preserve_color": ("maybe",),
        "seed": (-1, 2**32),
        "preview_every": (-1, 1001),
    }
    for name, values in wrong.items():
        for value in values:
            yield form(JOBS, pair, {name: value}, note=f"{name}={value}")
    yield form(JOBS, pair[:1], note="no style")
    yield form(JOBS, [*pair, pair[1]], note="two styles")
    yield form(JOBS, [("content", "text-1"), pair[1]], note="content is no image")
    yield form(JOBS, [pair[0], ("style", "pixels-1")], note="style has too many pixels")
    yield raw(JOBS, "shapes-png", note="as the body")
    unknown = "/v1/jobs/" + "0" * 32
    yield from (get(f"{unknown}{what}") for what in ("", "/result", "/preview", "/events"))
    yield get(unknown, method="DELETE")
    yield get("/v1/jobs/nothing")


def _others() -> Iterator[Http]:
    yield get("/v1/models")
    for name in (
        "efficientnet-lite0",
        "lenet5",
        "efficientdet-lite0",
        "yolo-person",
        "mtcnn",
        "dlib-resnet",
        "paintings",
    ):
        yield get(f"/v1/models/{name}")
        yield get(f"/v1/models/{name}/filters")
    yield from (get(f"/v1/models/nothing{what}") for what in ("", "/filters", "/layers"))
    yield get("/v1/models/lenet5/layers")
    yield from (get("/v1/models/lenet5/filters", {"layer": layer}) for layer in ("features.0", "nothing"))
    wrong: dict[str, object] = {"layer": "nothing", "label": "nothing", "channel": -1, "size": 1, "steps": 0}
    wrong |= {"seed": -1, "preview_every": -1}
    for name, value in wrong.items():
        yield get("/v1/models/efficientnet-lite0/visualize/jobs", {name: value}, method="POST")
    for path in ("/livez", "/readyz", "/healthz", "/docs", "/nothing", "/v1/nothing", "/v1"):
        yield get(path)
    for path in (CLASSIFY, EXPLAIN, DETECT, FACES, EMBED, VERIFY, COMPARE, STYLIZE, JOBS):
        yield get(path)
    yield get("/v1/models", method="POST")
    yield get("/v1/styles", method="DELETE")
    yield get(CLASSIFY, method="PUT")
    yield get(CLASSIFY, method="POST", note="no body")
    yield get("/v1/models", headers={"x-request-id": "not an id"}, note="with a request id that is none")
