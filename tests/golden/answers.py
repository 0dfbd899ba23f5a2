"""How an answer is stored: plain JSON in which images, tensors and numbers take little room."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import struct
from typing import Any

import numpy as np
from PIL import Image

Json = Any
SIDE = 10
"""Sides of the stored miniature of an answered image, pixels."""
DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
LONG = 30
"""A list of more texts than this, and a text of a hundred times as many characters, become a digest."""
PICTURES = ("picture", "thumbnail")
"""Names of fields and tensors that hold an encoded image, in base64 where JSON has them."""


def plain(value: Json) -> Json:
    """A JSON value with encoded images described and numbers rounded.

    Args:
        value: of dicts, lists, strings, numbers, booleans and None.
    """
    if isinstance(value, dict):
        return {key: _picture_or_plain(key, item) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) > LONG and all(isinstance(item, str) for item in value):
            return {"items": len(value), "sha256": _digest("\n".join(value))}
        return [plain(item) for item in value]
    if isinstance(value, str) and len(value) > 100 * LONG:
        return {"length": len(value), "sha256": _digest(value)}
    if isinstance(value, float):
        return rounded(value)
    return value


def rounded(value: float) -> float | str:
    """Four decimals below one, six digits above."""
    if not math.isfinite(value):
        return str(value)
    return round(value, 4) if abs(value) < 1 else float(f"{value:.6g}")


def described(data: bytes) -> Json:
    """An encoded image: its format and size, and a miniature of `SIDE` x `SIDE` pixels in base64."""
    if not data:
        return {"image": "empty"}
    with Image.open(io.BytesIO(data)) as found:
        small = found.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        pixels = base64.b64encode(small.tobytes()).decode()
        return {"image": found.format, "size": list(found.size), "pixels": pixels}


def tensor(name: str, datatype: str, shape: list[int], raw: bytes) -> Json:
    """A tensor of the Open Inference Protocol from its binary form, as `plain` has one from JSON."""
    entry: dict[str, Json] = {"name": name, "datatype": datatype, "shape": shape}
    if datatype != "BYTES":
        entry["data"] = np.frombuffer(raw, DTYPES[datatype]).tolist()
        return plain(entry)
    elements, position = [], 0
    while position < len(raw):
        (length,) = struct.unpack_from("<I", raw, position)
        elements.append(raw[position + 4 : position + 4 + length])
        position += 4 + length
    if name in PICTURES:
        entry["data"] = [described(element) for element in elements]
    else:
        entry["data"] = [element.decode() for element in elements]
    return entry


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _picture_or_plain(key: str, value: Json) -> Json:
    if key in PICTURES and isinstance(value, str) and not value.startswith("/v1/"):
        return described(base64.b64decode(value))
    if key == "outputs" and isinstance(value, list):
        return [_output(item) for item in value]
    return plain(value)


def _output(value: Json) -> Json:
    if isinstance(value, dict) and value.get("name") in PICTURES and "data" in value:
        images = [described(base64.b64decode(item)) for item in value["data"]]
        return {**plain({key: item for key, item in value.items() if key != "data"}), "data": images}
    return plain(value)
