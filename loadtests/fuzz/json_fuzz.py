"""JSON of the Open Inference Protocol and of /v1: random documents and mutated valid ones."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

from loadtests.fuzz.mutate import INTERESTING, mutated
from loadtests.fuzz.wire import HttpClient, Kind, wrong_http
from loadtests.hostile.images import small
from loadtests.hostile.png import uniform

Request = tuple[str, str, dict[str, str], bytes]
MOST = 200_000
TINY = base64.b64encode(uniform(28, 28, color=0)).decode()
PHOTO = base64.b64encode(small()).decode()
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
SIDE = {"embedding": [0.1] * 128, "model": {"name": "dlib-resnet", "sha256": SHA256}}
INFER = [
    {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [TINY]}]},
    {
        "id": "1",
        "parameters": {"top_k": 3, "timeout": 10_000_000, "binary_data_output": False},
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [2, 1], "data": [TINY, TINY]}],
        "outputs": [{"name": "scores", "parameters": {"classification": 2, "binary_data": False}}],
    },
    {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [7] * 3072}]},
    {
        "inputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [[[[1] * 3] * 2] * 2]}
        ]
    },
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [0.5, -1e300]}]},
]
ROUTES: list[tuple[str, list[Any]]] = [
    ("/v2/models/lenet5/infer", INFER),
    ("/v2/models/lenet5/versions/1/infer", INFER),
    ("/v2/models/dlib-resnet/infer", INFER),
    ("/v2/models/mtcnn/infer", INFER),
    ("/v1/classify?model=lenet5", [{"image": TINY}, {"image": f"data:image/png;base64,{TINY}"}]),
    ("/v1/faces/verify", [{"a": PHOTO, "b": TINY}]),
    ("/v1/faces/compare", [{"a": SIDE, "b": SIDE}]),
    ("/v2/repository/index", [{"ready": True}, {}]),
]
TOKENS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"0x1",
    b"\\u0000", b"\\ud800", b"\xff", b"\xef\xbb\xbf", b'"inputs":', b'"data":', b'"shape":',
    b'"datatype":"FP64"', b'"binary_data_size":', b'"parameters":{', b"\x00", b"//", b"'", b"1" * 50,
    b'"name":"scores"',
]  # fmt: skip
WORDS = (
    "inputs",
    "outputs",
    "data",
    "shape",
    "name",
    "datatype",
    "parameters",
    "image",
    "pixels",
    "a",
    "b",
    "ready",
)
WHOLE = [json.dumps(one).encode() for _, several in ROUTES for one in several]


def generate(random: Random) -> Request:
    """A request: a valid document that was changed as a tree or as bytes, or a random one."""
    path, several = random.choice(ROUTES)
    document = random.choice(several)
    kind = random.random()
    if kind < 0.35:
        body = mutated(random, json.dumps(document).encode(), TOKENS, WHOLE, MOST)
    elif kind < 0.85:
        body = _text(_changed(random, document))
    elif kind < 0.97:
        body = _text(_any(random, 5))
    else:
        body = json.dumps(document).encode()
    headers = {
        "Content-Type": random.choice(("application/json",) * 8 + ("text/plain", "application/x; a=b"))
    }
    if path.startswith("/v2/models"):
        body = _framed(random, headers, body)
    return "POST", path, headers, body


def _framed(random: Random, headers: dict[str, str], body: bytes) -> bytes:
    """With bytes behind the JSON, or compressed, each now and then."""
    if random.random() < 0.15:
        length = random.choice((len(body), len(body), 0, -1, len(body) + 1, *INTERESTING))
        headers["Inference-Header-Content-Length"] = str(length)
        body += random.randbytes(random.choice((0, 4, 104, 3072)))
    if random.random() < 0.15:
        coding = random.choice(("gzip", "deflate", "gzip", "br", "identity"))
        headers["Content-Encoding"] = coding
        packed = gzip.compress(body, mtime=0) if random.random() < 0.6 else zlib.compress(body)
        body = (
            mutated(random, packed, [b"\x1f\x8b\x08", b"\x78\x9c"], [packed], MOST)
            if random.random() < 0.5
            else packed
        )
    return body


def _text(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")[:MOST]


def _changed(random: Random, value: Any) -> Any:
    """The same tree with about one node in it replaced, removed, renamed or repeated."""
    chance = random.random()
    if chance < 0.12:
        return _any(random, 3)
    if isinstance(value, dict) and value:
        found = dict(value)
        key = random.choice(list(found))
        if chance < 0.25:
            del found[key]
        elif chance < 0.35:
            found[random.choice(WORDS)] = found.pop(key)
        elif chance < 0.45:
            found[random.choice(WORDS)] = _any(random, 2)
        else:
            found[key] = _changed(random, found[key])
        return found
    if isinstance(value, list) and value:
        items = list(value)
        at = random.randrange(len(items))
        if chance < 0.25:
            del items[at]
        elif chance < 0.4:
            items = items[: at + 1] * random.choice((2, 3, 100))
        else:
            items[at] = _changed(random, items[at])
        return items[:20_000]
    if isinstance(value, str):
        return mutated(random, value.encode()[:2000], TOKENS, [b"text"], 4000).decode("latin-1")
    return _any(random, 1)


def _any(random: Random, depth: int) -> Any:
    """A random value of at most so many levels."""
    kinds: Sequence[str] = ("dict", "list", "leaf") if depth else ("leaf",)
    match random.choice(kinds):
        case "dict":
            return {random.choice(WORDS): _any(random, depth - 1) for _ in range(random.randint(0, 4))}
        case "list":
            return [_any(random, depth - 1) for _ in range(random.choice((0, 1, 2, 4, 30)))]
    number = random.choice(INTERESTING)
    leaves = (None, True, False, number, -number, number / 7, float("inf"), float("nan"), 1e-320, 0.5)
    texts = (
        "",
        "image",
        "BYTES",
        "UINT8",
        "FP32",
        "%",
        TINY[:40],
        "\ud800",
        "\x00",
        "a" * 5000,
        "=" * 9,
        "QUJD",
    )
    return random.choice((*leaves, *texts, *WORDS))


KIND = Kind("json", generate, HttpClient, wrong_http)
