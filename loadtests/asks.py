"""Requests of clients: for every task a generator of requests with real images, over HTTP or gRPC."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from loadtests import answers
from loadtests.answers import Check
from loadtests.tasks import TASKS, Work, body, images_in, message_to

JSON = "application/json"
"""Explanations are images, unless JSON is asked for."""
GRPC = "/grpc"
"""Ends the name of a task that is asked for over gRPC."""
VARIABLES = {"imagenet-sample": "LOADTEST_IMAGES", "faces": "LOADTEST_FACES"}

CHECKS: Mapping[str, Check] = {
    "classify": answers.labels(5),
    "digits": answers.labels(5),
    "detect": answers.detections,
    "faces": answers.faces,
    "embed": answers.embeddings,
    "verify": answers.verdict,
    "identify": answers.matches(10),
    "vectors": answers.vector,
    "explain": answers.explanation,
    "analyze": answers.analysis,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        name: of its task, as in `slo.toml`.
        path: the route, or the gRPC method's full name.
        body: HTTP's body or gRPC's message.
        check: of the answer.
        headers: of HTTP.
    """

    name: str
    path: str
    body: bytes
    check: Check
    headers: Mapping[str, str]

    @property
    def grpc(self) -> bool:
        """Whether it goes over gRPC."""
        return self.name.endswith(GRPC)


def work_of(name: str) -> Work:
    """The task of a name, with or without its transport.

    Raises:
        ValueError: there is none.
    """
    task = name.removesuffix(GRPC)
    if task not in CHECKS:
        raise ValueError(f"no task named {name!r}; these are: {', '.join(CHECKS)}, each also with {GRPC}")
    return TASKS[task]


def images_of(work: Work) -> list[Path]:
    """A task's JPEGs: those of the folder that `LOADTEST_IMAGES` or `LOADTEST_FACES` names, or its own.

    Raises:
        FileNotFoundError: there are none.
    """
    return images_in(Path(os.environ.get(VARIABLES.get(work.images.name, "")) or work.images))


@lru_cache
def _by_size(name: str) -> tuple[Sequence[bytes], ...]:
    """A task's encoded images of common, small and large size; read once."""
    contents = sorted((path.read_bytes() for path in images_of(work_of(name))), key=len)
    third = max(1, len(contents) // 3)
    return contents[third:-third] or contents, contents[:third], contents[-third:]


def image_of(name: str) -> bytes:
    """One of a task's images: most often one of common size, else a small or a large one (6 : 2 : 2)."""
    return random.choice(random.choices(_by_size(name), weights=(6, 2, 2))[0])


def ask(name: str) -> Ask:
    """The next request of a task."""
    work = work_of(name)
    images = [image_of(name) for _ in work.fields]
    check = CHECKS[name.removesuffix(GRPC)]
    if name.endswith(GRPC):
        return Ask(name, work.method, message_to(work, images), check, {})
    headers = {"Content-Type": work.content_type, "Accept": JSON}
    return Ask(name, work.path, body(work, images), check, headers)


def drawer(mix: Mapping[str, float], seed: int) -> Callable[[], str]:
    """Draws names by their weights."""
    names, weights = list(mix), list(mix.values())
    source = random.Random(seed)
    return lambda: source.choices(names, weights)[0]
