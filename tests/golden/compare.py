"""Whether an answer is the stored one: numbers within a tolerance, images nearly alike, more keys allowed."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

Json = Any
RELATIVE, ABSOLUTE = 2e-3, 2e-3
"""Tolerance of a number: machines differ in the arithmetic that they choose."""
PIXELS = 0.5
"""Absolute tolerance of what is in pixels."""
IN_PIXELS = ("box", "boxes", "landmarks", "region", "x", "y", "x1", "y1", "x2", "y2")
LOSSES = 0.03
"""Relative tolerance of a style job's losses, which add up over its steps."""
MINIATURE = 4.0
"""Largest mean difference of two miniatures, of 255."""
WORDING = ("detail", "error", "error_message", "message")
"""Texts for people: that there is one is compared, not how it reads."""


def differences(expected: Json, actual: Json, where: str = "", key: str = "") -> Iterator[str]:
    """Every way in which `actual` is not the stored answer; nothing where it is.

    A dict may have more keys than the stored one, and a list of descriptions (objects with a `name` and no
    `data`) more of them; any other list may not have more items. Integers are exact.
    """
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            yield f"{where}: {_short(actual)} in place of an object"
            return
        tensor = str(expected.get("name", "")) if "datatype" in expected else ""
        for name, value in expected.items():
            if name not in actual:
                yield f"{where}.{name}: missing"
            else:
                yield from differences(value, actual[name], f"{where}.{name}", tensor or name)
    elif isinstance(expected, list) and isinstance(actual, list) and _described(expected):
        there = {item["name"]: item for item in actual if isinstance(item, dict) and "name" in item}
        for item in expected:
            name = item["name"]
            if name not in there:
                yield f"{where}: {name!r} is missing"
            else:
                yield from differences(item, there[name], f"{where}[{name}]", key)
    elif isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            yield f"{where}: {_short(actual)} in place of {_short(expected)}"
            return
        for index, (value, other) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(value, other, f"{where}[{index}]", key)
    elif not _same(expected, actual, key):
        yield f"{where}: {_short(actual)} in place of {_short(expected)}"


def _described(expected: list[Json]) -> bool:
    """Whether these describe named things (models, tensors, styles), of which there may be more."""
    return bool(expected) and all(
        isinstance(item, dict) and "name" in item and "data" not in item for item in expected
    )


def _same(expected: Json, actual: Json, key: str) -> bool:
    if key in WORDING and isinstance(expected, str):
        return isinstance(actual, str) and bool(actual) == bool(expected)
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, float) and isinstance(actual, int | float):
        absolute = PIXELS if key in IN_PIXELS else ABSOLUTE
        relative = LOSSES if key in ("content", "style", "variation", "brightness") else RELATIVE
        return math.isclose(expected, actual, rel_tol=relative, abs_tol=absolute)
    if isinstance(expected, str) and isinstance(actual, str) and expected != actual:
        return _same_text(expected, actual, key)
    return bool(expected == actual)


def _same_text(expected: str, actual: str, key: str) -> bool:
    if key == "pixels":
        one, other = (
            np.frombuffer(base64.b64decode(text), np.uint8).astype(int) for text in (expected, actual)
        )
        return one.shape == other.shape and float(abs(one - other).mean()) <= MINIATURE
    score, _, rest = expected.partition(":")  # `value:index:label` of the protocol's classification extension
    other_score, _, other_rest = actual.partition(":")
    try:
        near = math.isclose(float(score), float(other_score), rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except ValueError:
        return False
    return near and rest == other_rest and ":" in rest


def _short(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
