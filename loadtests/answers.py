"""What a client expects of each task's answer: checks that say what is wrong, or None.

An answer is a JSON document of the HTTP API, or the gRPC message as a dictionary, which differs in its boxes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], str | None]
"""What is wrong with an answer's document, or None."""


def problem_of(status: int, text: str | None, check: Check) -> str | None:
    """What is wrong with an HTTP answer, or None."""
    if status != 200:
        return f"status {status}: {(text or '')[:200]}"
    try:
        document = json.loads(text or "")
    except ValueError as error:
        return f"no JSON: {error}"
    return problem_in(document, check)


def problem_in(document: Any, check: Check) -> str | None:
    """What is wrong with a document, or None."""
    try:
        return check(document)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return f"not an answer of the schema: {error!r}"


def labels(top_k: int) -> Check:
    """Of `classify`: so many labels of falling score, and the image's size."""

    def check(answer: Any) -> str | None:
        if len(answer["labels"]) != top_k:
            return f"{len(answer['labels'])} labels instead of {top_k}"
        if min(answer["image"]["width"], answer["image"]["height"]) < 1:
            return f"an image of {answer['image']}"
        return _scores(answer["labels"])

    return check


def detections(answer: Any) -> str | None:
    """Of `detect`: boxes within the image, scores that fall."""
    width, height = answer["image"]["width"], answer["image"]["height"]
    for item in answer["detections"]:
        x1, y1, x2, y2 = _corners(item["box"])
        if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height and item["label"]):
            return f"a box {item} in an image of {width} x {height}"
    return _scores(answer["detections"])


def faces(answer: Any) -> str | None:
    """Of `faces/detect`: each has a box and five landmarks; scores that fall."""
    for face in answer["faces"]:
        x1, y1, x2, y2 = _corners(face["box"])
        if not (x1 < x2 and y1 < y2 and len(face["landmarks"]) == 5):
            return f"a face {face}"
    return _scores(answer["faces"])


def embeddings(answer: Any) -> str | None:
    """Of `faces/embed`: each face has its embedding, 128 numbers; gRPC's stand beside the face."""
    for face in answer["faces"]:
        if len(face["embedding"]) != 128:
            return f"an embedding of {len(face['embedding'])}"
    return None


def verdict(answer: Any) -> str | None:
    """Of `faces/verify`: the verdict is what distance and threshold say, and both faces are there."""
    result = answer.get("verdict", answer)
    if result["verified"] != (result["distance"] <= result["threshold"]):
        return f"verified {result['verified']} at {result['distance']} of {result['threshold']}"
    if not -1 <= result["similarity"] <= 1 or result["distance"] < 0:
        return f"a similarity of {result['similarity']}, a distance of {result['distance']}"
    both = answer.get("faces", answer)
    for name in ("a", "b"):
        if len(both[name]["landmarks"]) != 5:
            return f"the face {name} has not five landmarks"
    return None


def matches(top_k: int) -> Check:
    """Of `faces/identify`: so many names, their distances rise, each verdict is what its distance says."""

    def check(answer: Any) -> str | None:
        distances = [match["distance"] for match in answer["matches"]]
        names = {match["name"] for match in answer["matches"]}
        if len(names) != top_k or distances != sorted(distances):
            return f"{len(names)} names at {distances}"
        wrong = [m for m in answer["matches"] if m["verified"] != (m["distance"] <= answer["threshold"])]
        return f"verified {wrong} of {answer['threshold']}" if wrong else None

    return check


def explanation(answer: Any) -> str | None:
    """Of `classify/explain`: a map, and its label."""
    return (
        None if answer["model"] and answer["image"]["width"] > 0 else f"an explanation of {answer['model']}"
    )


def vector(answer: Any) -> str | None:
    """Of `embed`: as many numbers as it says, of length 1."""
    found = answer["embedding"]
    length = sum(number * number for number in found)
    if len(found) != answer["dimensions"] or not 0.99 < length < 1.01:
        return f"a vector of {len(found)} numbers, of squared length {length}"
    return None


def analysis(answer: Any) -> str | None:
    """Of `analyze`: parts, and none of them failed; gRPC's stand beside each other."""
    parts = answer.get("results", answer)
    failed = [name for name, part in parts.items() if isinstance(part, dict) and "problem" in part]
    return f"{failed} failed" if failed or answer.get("problems") or not parts else None


def styles(answer: Any) -> str | None:
    """Of `styles`: each has a name."""
    return None if all(style["name"] for style in answer["styles"]) else "a style without a name"


def _corners(box: Any) -> list[float]:
    return [box[name] for name in ("x1", "y1", "x2", "y2")] if isinstance(box, dict) else box


def _scores(items: list[Any]) -> str | None:
    scores = [item["score"] for item in items]
    if scores != sorted(scores, reverse=True) or not all(0 <= score <= 1 for score in scores):
        return f"scores out of order or of range: {scores}"
    return None
