"""The requests of the Open Inference Protocol: over HTTP, as JSON and with binary tensors."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.golden.http import HEADER, Http, get, text
from tests.golden.images import image, present

MODELS = ("efficientnet-lite0", "lenet5", "yolo-person", "mtcnn", "dlib-resnet", "paintings")
SIDES = {"efficientnet-lite0": 224, "lenet5": 32, "yolo-person": 512, "dlib-resnet": 150}
OUTPUTS = {
    "efficientnet-lite0": "scores",
    "yolo-person": "boxes",
    "mtcnn": "landmarks",
    "dlib-resnet": "counts",
}
GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("efficientnet-lite0", "dog", {}),
    ("efficientnet-lite0", "shapes-png", {"top_k": 3}),
    ("lenet5", "digit-4", {}),
    ("lenet5", "digit-4", {"top_k": 10}),
    ("yolo-person", "person", {}),
    ("yolo-person", "two_people", {"score_threshold": 0.5, "iou_threshold": 0.3, "max_detections": 1}),
    ("yolo-person", "two_people", {"classes": "person"}),
    ("mtcnn", "two_people", {}),
    ("mtcnn", "two_people", {"score_threshold": 0.9, "min_size": 20, "max_faces": 1}),
    ("dlib-resnet", "two_people", {"max_faces": 1}),
    ("dlib-resnet", "chip-1", {"aligned": True}),
    ("paintings", "shapes-png", {}),
    ("paintings", "shapes-png", {"style": "the_scream", "strength": 0.5, "format": "png"}),
]
WRONG: list[tuple[str, dict[str, Any]]] = [
    *(("efficientnet-lite0", {"top_k": value}) for value in (0, 1001, "many", 2.5, True)),
    ("efficientnet-lite0", {"nothing": 1}),
    ("efficientnet-lite0", {"timeout": -1}),
    ("efficientnet-lite0", {"priority": -1}),
    *(("yolo-person", {"score_threshold": value}) for value in (-0.01, 1.01, "low", True)),
    *(("yolo-person", {"iou_threshold": value}) for value in (-0.01, 1.01)),
    *(("yolo-person", {"max_detections": value}) for value in (0, 1001, 1.5)),
    *(("yolo-person", {"classes": value}) for value in ("nothing", 1)),
    ("yolo-person", {"top_k": 1}),
    *(("mtcnn", {"score_threshold": value}) for value in (-0.01, 1.01)),
    ("mtcnn", {"min_size": -1}),
    *(("mtcnn", {"max_faces": value}) for value in (0, 1001)),
    ("dlib-resnet", {"aligned": "yes"}),
    ("paintings", {"style": "nothing"}),
    *(("paintings", {"strength": value}) for value in (-0.01, 1.01)),
    *(("paintings", {"format": value}) for value in ("gif", 1)),
]
USUAL = {"timeout": 20_000_000, "priority": 1, "sequence_id": 5, "triton_enable_empty_final_response": True}


def http_cases() -> list[Http]:
    """Every request over HTTP."""
    cases = [*_documents(), *_good(), *_wrong(), *_bodies(), *_codings()]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases


def _documents() -> Iterator[Http]:
    for path in ("", "/health/live", "/health/ready"):
        yield get(f"/v2{path}")
    for model in (*MODELS, "nothing"):
        for what in ("", "/config", "/ready", "/versions/1", "/versions/1/config"):
            yield get(f"/v2/models/{model}{what}")
    for what in ("", "/config", "/ready", "/stats", "/infer"):
        yield get(f"/v2/models/lenet5/versions/2{what}", method="POST" if what == "/infer" else "GET")
    yield get("/v2/models/nothing/stats")
    yield get("/v2/models/lenet5/infer")
    yield get("/v2/nothing")
    yield get("/v2/repository/index", method="POST")
    for body in (b'{"ready": true}', b'{"ready": 5}', b"[]", b"{", b" " * 70000):
        note = body.decode().strip() or "too long"
        yield Http(f"/v2/repository/index {note}", "POST", "/v2/repository/index", (), {}, body)


def _infer(
    model: str,
    body: Any,
    note: str,
    *,
    tail: bytes | None = None,
    needs: tuple[str, ...] = (),
    path: str = "",
    **headers: str,
) -> Http:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json"} | {
        key.replace("_", "-"): value for key, value in headers.items()
    }
    if tail is not None:
        sent = {HEADER: str(len(content)), "content-type": "application/octet-stream"} | sent
        content += tail
    return Http(f"infer {model} {note}", "POST", f"/v2/models/{model}{path}/infer", (), sent, content, needs)


def _picture(*names: str, **more: Any) -> dict[str, Any]:
    data = [text(name) for name in names]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(names)], "data": data}], **more}


def packed(*names: str) -> bytes:
    """Images as the binary form of a BYTES tensor."""
    found = [image(name) if present(name) else b"" for name in names]
    return b"".join(struct.pack("<I", len(one)) + one for one in found)


def pixels(side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A ramp, uint8 [side, side, 3]."""
    ramp = np.linspace(0, 255, side)
    rows = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 128.0), axis=2)
    return np.asarray(rows, np.uint8)


def _good() -> Iterator[Http]:
    for model, name, parameters in GOOD:
        note = f"{name} {parameters}"
        yield _infer(model, _picture(name, parameters=parameters), note, needs=(name,))
        binary = packed(name)
        sizes = {"binary_data_size": len(binary)}
        body = {
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1, 1], "parameters": sizes}],
            "parameters": {**parameters, "binary_data_output": True},
            "id": "golden",
        }
        yield _infer(model, body, f"{note} binary", tail=binary, needs=(name,))
    for model, output in OUTPUTS.items():
        name = "two_people" if model != "efficientnet-lite0" else "shapes-png"
        for binary in (True, False):
            wanted = [{"name": output, "parameters": {"binary_data": binary}}]
            body = _picture(name, outputs=wanted, parameters=USUAL)
            yield _infer(model, body, f"{output} binary_data={binary}", needs=(name,))
    for model, side in SIDES.items():
        raw = pixels(side).tobytes()
        sizes = {"binary_data_size": len(raw)}
        shape = [1, side, side, 3]
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": shape, "parameters": sizes}
        yield _infer(model, {"inputs": [tensor]}, "pixels", tail=raw)
    data = pixels(32).ravel().tolist()
    flat = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": data}
    yield _infer("lenet5", {"inputs": [flat]}, "pixels in JSON")
    nested = {**flat, "data": [pixels(32).tolist()]}
    yield _infer("lenet5", {"inputs": [nested]}, "pixels in nested JSON")
    wanted = [{"name": "scores", "parameters": {"classification": 2}}]
    yield _infer(
        "efficientnet-lite0", _picture("dog", "dog", outputs=wanted), "classification=2", needs=("dog",)
    )
    yield _infer(
        "efficientnet-lite0",
        _picture("shapes-png", parameters={"top_k": 1}),
        "of version 1",
        path="/versions/1",
    )
    yield _infer(
        "yolo-person", _picture("person", "shapes-png", "two_people"), "three", needs=("person", "two_people")
    )
    whole = {HEADER: "0"}
    for model, name in (("efficientnet-lite0", "dog"), ("yolo-person", "person"), ("mtcnn", "shapes-png")):
        path = f"/v2/models/{model}/infer"
        body = image(name) if present(name) else b""
        yield Http(f"infer {model} {name} as the body", "POST", path, (), whole, body, (name,))
        octets = {**whole, "accept": "application/octet-stream"}
        yield Http(f"infer {model} {name} as the body, binary", "POST", path, (), octets, body, (name,))


def _wrong() -> Iterator[Http]:
    for model, parameters in WRONG:
        yield _infer(model, _picture("shapes-png", parameters=parameters), f"{parameters}")
    model = "efficientnet-lite0"
    entry = _picture("shapes-png")["inputs"][0]
    one = {
        "nothing": {},
        "no inputs": {"inputs": []},
        "inputs of another type": {"inputs": "image"},
        "inputs of numbers": {"inputs": [1]},
        "two inputs": {"inputs": [entry, entry]},
        "an unknown input": {"inputs": [{**entry, "name": "nothing"}]},
        "another datatype": {"inputs": [{**entry, "datatype": "UINT8"}]},
        "an unknown datatype": {"inputs": [{**entry, "datatype": "STRING"}]},
        "no datatype": {"inputs": [{key: entry[key] for key in ("name", "shape", "data")}]},
        "no shape": {"inputs": [{key: entry[key] for key in ("name", "datatype", "data")}]},
        "no data": {"inputs": [{key: entry[key] for key in ("name", "datatype", "shape")}]},
        "a shape without sizes": {"inputs": [{**entry, "shape": []}]},
        "another shape": {"inputs": [{**entry, "shape": [1, 2]}]},
        "a larger shape": {"inputs": [{**entry, "shape": [2]}]},
        "too many images": {"inputs": [{**entry, "shape": [9]}]},
        "a negative size": {"inputs": [{**entry, "shape": [-1]}]},
        "a shape of texts": {"inputs": [{**entry, "shape": ["1"]}]},
        "numbers as data": {"inputs": [{**entry, "data": [1]}]},
        "no base64": {"inputs": [{**entry, "data": ["%"]}]},
        "no image": {"inputs": [{**entry, "data": [text("text-1")]}]},
        "an unknown output": {"inputs": [entry], "outputs": [{"name": "nothing"}]},
        "an output twice": {"inputs": [entry], "outputs": [{"name": "scores"}] * 2},
        "classification of a text": {
            "inputs": [entry],
            "outputs": [{"name": "scores", "parameters": {"classification": "2"}}],
        },
        "classification of 0": {
            "inputs": [entry],
            "outputs": [{"name": "scores", "parameters": {"classification": 0}}],
        },
        "binary_data of a number": {
            "inputs": [entry],
            "outputs": [{"name": "scores", "parameters": {"binary_data": 1}}],
        },
        "parameters of a list": {"inputs": [entry], "parameters": []},
        "a parameter of a list": {"inputs": [entry], "parameters": {"top_k": [1]}},
        "an id of a number": {"inputs": [entry], "id": 5},
        "shared memory": {"inputs": [{**entry, "parameters": {"shared_memory_region": "x"}}]},
    }
    yield from (_infer(model, body, note) for note, body in one.items())
    yield _infer(model, _picture("shapes-png", "text-1"), "the second is no image")
    yield _infer("nothing", _picture("shapes-png"), "unknown model")
    yield _infer("mtcnn", {"inputs": [{**entry, "name": "pixels"}]}, "pixels that it has none of")
    boxes = [{"name": "boxes", "parameters": {"classification": 1}}]
    yield _infer("yolo-person", _picture("shapes-png", outputs=boxes), "classification of boxes")
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
    for note, data in (
        ("too few", [0] * 3071),
        ("out of range", [256] * 3072),
        ("fractions", [0.5] * 3072),
        ("ragged", [[0], [0, 0]]),
        ("texts", ["0"] * 3072),
    ):
        yield _infer("lenet5", {"inputs": [{**tensor, "data": data}]}, f"pixels: {note}")


def _bodies() -> Iterator[Http]:
    model = "lenet5"
    for note, body in (
        ("malformed", b"{"),
        ("a list", b"[]"),
        ("empty", b""),
        ("an image", image("shapes-png")),
    ):
        yield _infer(model, body, note)
    binary = packed("digit-4")
    for size in (len(binary) - 1, len(binary) + 1, -1, "many"):
        sizes = {"binary_data_size": size}
        entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": sizes}
        yield _infer(model, {"inputs": [entry]}, f"binary of {size}", tail=binary)
    sizes = {"binary_data_size": len(binary)}
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": sizes, "data": [""]}
    yield _infer(model, {"inputs": [entry]}, "binary and JSON", tail=binary)
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 3}}
    yield _infer(model, {"inputs": [entry]}, "binary without a length", tail=b"abc")
    for value in ("-1", "many", "99999999", ""):
        headers = {HEADER: value}
        name = f"infer {model} header {value!r}"
        yield Http(name, "POST", f"/v2/models/{model}/infer", (), headers, b"{}")


def _codings() -> Iterator[Http]:
    model, body = "lenet5", json.dumps(_picture("digit-4")).encode()
    yield _infer(model, gzip.compress(body, mtime=0), "gzip", content_encoding="gzip")
    yield _infer(model, zlib.compress(body), "deflate", content_encoding="deflate")
    yield _infer(model, body, "gzip that is none", content_encoding="gzip")
    yield _infer(model, body, "br", content_encoding="br")
    for coding in ("gzip", "deflate", "br", "identity"):
        yield _infer(model, body, f"answered in {coding}", accept_encoding=coding)
    bomb = gzip.compress(b" " * (80 * 1024 * 1024), 9, mtime=0)
    yield _infer(model, bomb, "gzip over the limit", content_encoding="gzip")
    yield _infer(model, body, "in no time", x_timeout_ms="0.001")
    yield _infer(model, body, "in soon", x_timeout_ms="soon")
