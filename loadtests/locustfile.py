"""Locust users: clients of the HTTP API with real pictures.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:3000 --headless -u 16 -r 16 -t 30s

Environment: `LYNCEUS_PICTURES`, a folder of JPEGs (default: the samples beside the checkout). For what the
machine can do at most take `loadtests.ceiling`: locust's own clients take more CPU than the service.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task

from loadtests.tasks import PICTURES, pictures_in

FOLDER = Path(os.environ.get("LYNCEUS_PICTURES") or PICTURES)
JPEG = {"Content-Type": "image/jpeg"}


class Album:
    """Pictures by size: most clients send a common one, some a small or a large one (6 : 2 : 2)."""

    def __init__(self, folder: Path) -> None:
        pictures = sorted((path.read_bytes() for path in pictures_in(folder)), key=len)
        third = max(1, len(pictures) // 3)
        self._classes = [pictures[third:-third] or pictures, pictures[:third], pictures[-third:]]

    def pick(self) -> bytes:
        """One encoded picture."""
        return random.choice(random.choices(self._classes, weights=(6, 2, 2))[0])


ALBUM: list[Album] = []


@events.init.add_listener
def read_album(**_: Any) -> None:
    """Once per locust process, and not at import: `--help` must work without pictures."""
    ALBUM.append(Album(FOLDER))


def problem_of(status: int, text: str | None, labels: int) -> str | None:
    """What is wrong with an answer to `/v1/classify`, or None."""
    if status != 200:
        return f"status {status}: {(text or '')[:200]}"
    try:
        answer = json.loads(text or "")
        found = answer["labels"]
        scores = [label["score"] for label in found]
        sides = (answer["image"]["width"], answer["image"]["height"])
    except (ValueError, KeyError, TypeError) as error:
        return f"not an answer of the schema: {error!r}"
    if len(found) != labels:
        return f"{len(found)} labels instead of {labels}"
    if scores != sorted(scores, reverse=True) or not all(0 <= score <= 1 for score in scores):
        return f"scores out of order or of range: {scores}"
    if min(sides) < 1:
        return f"an image of {sides}"
    return None


class Classifier(FastHttpUser):
    """Someone who wants labels."""

    wait_time = between(0.0, 0.2)

    @task(8)
    def classify(self) -> None:
        self._classify(5)

    @task(2)
    def classify_best(self) -> None:
        self._classify(1)

    def _classify(self, top_k: int) -> None:
        with self.client.post(
            f"/v1/classify?top_k={top_k}", data=ALBUM[0].pick(), headers=JPEG, catch_response=True
        ) as response:
            problem = problem_of(response.status_code, response.text, top_k)
            if problem is None:
                response.success()
            else:
                response.failure(problem)
