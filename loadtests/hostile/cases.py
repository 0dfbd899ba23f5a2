"""Every case. Files of the shared folder come first, where it is present."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from loadtests.hostile import documents, images
from loadtests.hostile.case import (
    BINARY,
    CLASSIFY,
    FORM,
    GZIP,
    INFER,
    JSON,
    LARGE,
    MIB,
    MODEL_INFER,
    VISION,
    Case,
    recent,
)
from loadtests.hostile.documents import deflated, form, part, zipped
from loadtests.hostile.send import Grpc, Http
from loadtests.hostile.transports import transport_cases

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
MODELS = (
    "efficientnet-lite0",
    "lenet5",
    "efficientdet-lite0",
    "yolo-person",
    "mtcnn",
    "dlib-resnet",
    "paintings",
)


def all_cases() -> list[Case]:
    """Every case, in the order in which they are sent."""
    cases = [
        *_shared(),
        *_decode(),
        *_routes(),
        *_json(),
        *transport_cases(),
    ]
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError(f"names twice: {sorted(name for name in names if names.count(name) > 1)}")
    return cases


def _file(name: str, unpack: bool = False) -> Callable[[], bytes]:
    @recent
    def read() -> bytes:
        data = (CASES / name).read_bytes()
        return gzip.decompress(data) if unpack else data

    return read


def _shared() -> Iterator[Case]:
    if not CASES.is_dir():
        return
    for name in ("lossless-520.jpg", "alpha-49mp.webp"):
        yield Case(f"shared {name}", Http(CLASSIFY, _file(name)), quick=True)
    classified = (
        "huffman-49mp-98scans.jpg",
        "arith-49mp-98scans.jpg",
        "baseline-49mp-300scans.jpg",
        "baseline-49mp-3000scans.jpg",
        "webp-anim-49mp.webp",
    )
    for name in classified:
        yield Case(f"shared {name}", Http(CLASSIFY, _file(f"hostile/{name}")), quick=True)
    yield Case(
        "shared grpc-empty-inputs.pb",
        Grpc(MODEL_INFER, [_file("hostile/grpc-empty-inputs.pb")], gzip=False),
        quick=True,
    )
    packed = _file("hostile/grpc-empty-inputs-8m.pb.gz", unpack=True)
    yield Case("shared grpc-empty-inputs-8m.pb.gz", Grpc(MODEL_INFER, [packed]), quick=True)
    for name in ("v2-lists", "v2-data-lists", "v2-data-deep-8m", "v2-outputs", "v2-shape"):
        yield Case(f"shared {name}.json.gz", Http(INFER, _file(f"hostile/{name}.json.gz"), GZIP), quick=True)
    drawn = _file("hostile/explain-49mp-bw.png")
    yield Case("shared explain-49mp-bw.png explain", Http("/v1/classify/explain", drawn), quick=True)
    path = "/v1/detect?score_threshold=0&max_detections=1000"
    yield Case("shared explain-49mp-bw.png detect", Http(path, drawn, {"Accept": "image/png"}), quick=True)
    padding = _file("hostile/multipart-padding.multipart")
    yield Case("shared multipart-padding", Http(CLASSIFY, padding, FORM), quick=True)
    yield Case(
        "shared grpc-malformed.pb",
        Grpc(f"{VISION}/Classify", [_file("hostile/grpc-malformed.pb")]),
        quick=True,
    )
    yield Case(
        "shared fraction 1e-320",
        Http("/v1/classify/explain?kind=windows&fraction=1e-320", _file("small.jpg")),
        quick=True,
    )


def _decode() -> Iterator[Case]:
    for name, make in images.all_images().items():
        yield Case(f"decode {name}", Http(CLASSIFY, make), quick=name in images.QUICK)
    for name in images.COSTLY:
        body = partial(images.form_of, name, 32)
        yield Case(f"decode 32 x {name}", Http(CLASSIFY, body, FORM), at_once=2)


def _routes() -> Iterator[Case]:
    every = images.all_images()
    drawn = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg", "JSON": "application/json"}
    for name in images.COSTLY:
        for accept in ("image/jpeg", "application/json"):
            for query in ("", "?kind=windows&fraction=0.13&score_threshold=0"):
                send = Http(f"/v1/classify/explain{query}", every[name], {"Accept": accept})
                yield Case(f"explain{query} {name} {accept}", send, quick=name == "png 1 bit" and not query)
        for short, accept in drawn.items():
            path = "/v1/detect?score_threshold=0&max_detections=1000"
            yield Case(f"detect {name} {short}", Http(path, every[name], {"Accept": accept}))
        yield Case(f"faces detect {name}", Http("/v1/faces/detect", every[name]))
        yield Case(f"faces detect {name} png", Http("/v1/faces/detect", every[name], {"Accept": "image/png"}))
        yield Case(f"faces embed {name}", Http("/v1/faces/embed?score_threshold=0", every[name]))
        pair = partial(_pair, every[name], "a", "b")
        yield Case(f"faces verify {name}", Http("/v1/faces/verify", pair, FORM))
        yield Case(f"stylize {name}", Http("/v1/stylize", every[name], {"Accept": "image/png"}))
        pair = partial(_pair, every[name], "content", "style")
        yield Case(f"job {name}", Http("/v1/stylize/jobs?steps=1&size=64", pair, FORM), at_once=2)
        for model in MODELS:
            send = Http(f"/v2/models/{model}/infer", every[name], BINARY)
            yield Case(f"v2 {model} {name}", send)
    noise = every["noise 640"]
    for path in ("detect", "embed"):
        send = Http(f"/v1/faces/{path}?score_threshold=0&max_faces=1000", noise)
        yield Case(f"faces {path} noise", send, quick=True)
    send = Http(
        "/v1/detect?score_threshold=0&max_detections=1000&iou_threshold=1", noise, {"Accept": "image/png"}
    )
    yield Case("detect noise png", send, quick=True)
    for fraction in ("1e-320", "1e-9", "0.001", "0.13"):
        path = f"/v1/classify/explain?kind=windows&fraction={fraction}&score_threshold=0"
        yield Case(f"explain windows {fraction}", Http(path, noise), quick=fraction != "0.13")


def _pair(image: Callable[[], bytes], *names: str) -> bytes:
    return form(*(part(image(), name) for name in names))


def _json() -> Iterator[Case]:
    quick = (
        "inputs of lists",
        "data of lists",
        "data nested",
        "outputs",
        "shape",
        "a long name",
        "data of strings",
    )
    for name, make in documents.INFER.items():
        body = recent(partial(_zipped, make, LARGE))
        yield Case(f"json infer {name}, gzip", Http(INFER, body, GZIP), quick=name in quick)
        yield Case(f"json infer {name}, 26 MiB", Http(INFER, recent(partial(make, 26 * MIB)), JSON))
        yield Case(f"json infer {name}, 1 MiB", Http(INFER, partial(make, MIB), JSON), quick=name in quick)
        if name in quick:
            body = recent(partial(_deflated, make, LARGE))
            yield Case(
                f"json infer {name}, deflate", Http(INFER, body, {**JSON, "Content-Encoding": "deflate"})
            )
            body = recent(partial(_with_bytes, make, 4 * MIB))
            head = {**JSON, "Inference-Header-Content-Length": str(len(make(4 * MIB)))}
            yield Case(f"json infer {name}, and bytes", Http(INFER, body, head))
    for of_input in (False, True):
        body = recent(partial(documents.parameters, 50 * MIB, of_input=of_input))
        where = "of an input" if of_input else "of the request"
        yield Case(f"json infer parameters {where}", Http(INFER, body, JSON))
    for name, make in documents.IMAGE.items():
        yield Case(
            f"json classify {name}",
            Http(CLASSIFY, partial(make, 25 * MIB), JSON),
            quick=name == "image of lists",
        )
        yield Case(f"json verify {name}", Http("/v1/faces/verify", partial(make, 53 * MIB), JSON))
        yield Case(f"json job {name}", Http("/v1/stylize/jobs", partial(make, 53 * MIB), JSON))
    for name, make in documents.COMPARE.items():
        send = Http("/v1/faces/compare", partial(make, MIB - 100), JSON)
        yield Case(f"json compare {name}", send, quick=name in ("numbers", "a long digest"))
    for name in ("inputs of lists", "nested objects", "a key again and again", "a number"):
        send = Http("/v2/repository/index", partial(documents.INFER[name], 65_000), JSON)
        yield Case(f"json index {name}", send)


def _zipped(make: documents.Maker, size: int) -> bytes:
    return zipped(make(size))


def _with_bytes(make: documents.Maker, size: int) -> bytes:
    return make(size) + bytes(56 * MIB)


def _deflated(make: documents.Maker, size: int) -> bytes:
    return deflated(make(size))
