"""Locust users: clients of the HTTP API with real pictures, who look at what they get.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:3000 --headless -u 16 -r 16 -t 30s

Environment: `LYNCEUS_PICTURES` and `LYNCEUS_FACES`, folders of JPEGs (default: the samples beside the
checkout); each picture of the second must show a face. Name classes after the options to have only those
users (`... Classifier`). For what the machine can do at most take `loadtests.ceiling`: locust's own clients
take more CPU than the service.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task

from loadtests.tasks import FACES, PICTURES, TASKS, multipart, pictures_in

FOLDER = Path(os.environ.get("LYNCEUS_PICTURES") or PICTURES)
FACES_FOLDER = Path(os.environ.get("LYNCEUS_FACES") or FACES)
JPEG = {"Content-Type": "image/jpeg"}
VERIFY = TASKS["verify"]
Check = Callable[[Any], str | None]
"""What is wrong with an answer's document, or None."""


class Album:
    """Pictures by size: most clients send a common one, some a small or a large one (6 : 2 : 2)."""

    def __init__(self, folder: Path) -> None:
        pictures = sorted((path.read_bytes() for path in pictures_in(folder)), key=len)
        third = max(1, len(pictures) // 3)
        self._classes = [pictures[third:-third] or pictures, pictures[:third], pictures[-third:]]

    def pick(self) -> bytes:
        """One encoded picture."""
        return random.choice(random.choices(self._classes, weights=(6, 2, 2))[0])


ALBUMS: dict[Path, Album] = {}


@events.init.add_listener
def read_albums(**_: Any) -> None:
    """Once per locust process, and not at import: `--help` must work without pictures."""
    ALBUMS.update({folder: Album(folder) for folder in (FOLDER, FACES_FOLDER)})


def problem_of(status: int, text: str | None, check: Check) -> str | None:
    """What is wrong with an answer, or None."""
    if status != 200:
        return f"status {status}: {(text or '')[:200]}"
    try:
        return check(json.loads(text or ""))
    except (ValueError, KeyError, TypeError) as error:
        return f"not an answer of the schema: {error!r}"


def _scores(items: list[Any]) -> str | None:
    scores = [item["score"] for item in items]
    if scores != sorted(scores, reverse=True) or not all(0 <= score <= 1 for score in scores):
        return f"scores out of order or of range: {scores}"
    return None


def labels_problem(answer: Any, labels: int) -> str | None:
    """Of `/v1/classify`: so many labels of falling score, and the image's size."""
    if len(answer["labels"]) != labels:
        return f"{len(answer['labels'])} labels instead of {labels}"
    if min(answer["image"]["width"], answer["image"]["height"]) < 1:
        return f"an image of {answer['image']}"
    return _scores(answer["labels"])


def detections_problem(answer: Any) -> str | None:
    """Of `/v1/detect`: boxes within the image, scores that fall."""
    width, height = answer["image"]["width"], answer["image"]["height"]
    for item in answer["detections"]:
        x1, y1, x2, y2 = item["box"]
        if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height and item["label"]):
            return f"a box {item} in an image of {width} x {height}"
    return _scores(answer["detections"])


def verdict_problem(answer: Any) -> str | None:
    """Of `/v1/faces/verify`: the verdict is what distance and threshold say, and both faces are there."""
    if answer["verified"] != (answer["distance"] <= answer["threshold"]):
        return f"verified {answer['verified']} at {answer['distance']} of {answer['threshold']}"
    if not -1 <= answer["similarity"] <= 1 or answer["distance"] < 0:
        return f"a similarity of {answer['similarity']}, a distance of {answer['distance']}"
    for name in VERIFY.fields:
        if len(answer["faces"][name]["landmarks"]) != 5:
            return f"the face {name} has not five landmarks"
    return None


class Client(FastHttpUser):
    """Someone who posts pictures and reads the answers."""

    abstract = True
    wait_time = between(0.0, 0.2)

    def ask(self, path: str, body: bytes, headers: Mapping[str, str], check: Check) -> None:
        """One request; an answer that is not right counts as a failure."""
        with self.client.post(path, data=body, headers=headers, catch_response=True) as response:
            problem = problem_of(response.status_code, response.text, check)
            if problem is None:
                response.success()
            else:
                response.failure(problem)


class Classifier(Client):
    """Someone who wants labels."""

    weight = 8

    @task(8)
    def classify(self) -> None:
        self._classify(5)

    @task(2)
    def classify_best(self) -> None:
        self._classify(1)

    def _classify(self, top_k: int) -> None:
        path = f"/v1/classify?top_k={top_k}"
        self.ask(path, ALBUMS[FOLDER].pick(), JPEG, lambda answer: labels_problem(answer, top_k))


class Detector(Client):
    """Someone who wants boxes."""

    weight = 1

    @task
    def detect(self) -> None:
        self.ask("/v1/detect", ALBUMS[FOLDER].pick(), JPEG, detections_problem)


class Verifier(Client):
    """Someone who wants to know whether two pictures show one person."""

    weight = 1

    @task
    def verify(self) -> None:
        album = ALBUMS[FACES_FOLDER]
        body = multipart(VERIFY.fields, [album.pick() for _ in VERIFY.fields])
        self.ask(VERIFY.path, body, {"Content-Type": VERIFY.content_type}, verdict_problem)
