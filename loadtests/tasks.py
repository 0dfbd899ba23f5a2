"""What is measured: each task of the service with its models, and the bodies that are posted."""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.message import field, message
from service.tasks import TASKS as SERVED
from service.tasks.analyze import ANALYZE
from service.tasks.classify import CLASSIFY
from service.tasks.detect import DETECT
from service.tasks.embed import EMBED
from service.tasks.explain import EXPLAIN
from service.tasks.faces.detect import FACES_DETECT
from service.tasks.faces.embed import FACES_EMBED
from service.tasks.faces.identify import FACES_IDENTIFY
from service.tasks.faces.verify import FACES_VERIFY
from service.tasks.stylize import STYLIZE
from service.tasks.task import Task

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
IMAGES = DATA / "imagenet-sample"
BOUNDARY = "lynceus-2b1f5c60a94e"
GALLERY = 9
"""The field of a message that holds known faces, each with a name and an embedding in its fields 1 and 2."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of one task.

    Attributes:
        task: the service's own definition: its route, its gRPC method, the names of its images.
        model: its model; of a composition the first, which sees the whole image.
        embedder: the model that sees the faces which the first found, where the route embeds them.
        largest: only the largest face of an image is embedded, and there must be one.
        images: a folder of JPEGs to post, unless the caller names another.
        asked: the model that a request names.
        most: largest batch that is worth trying; canvases of style networks are large.
        limited: there is an in-process limit of it, see `chains.py`.
        gallery: known faces that each request brings along.
    """

    task: Task[Any, Any]
    model: str
    embedder: str | None = None
    largest: bool = False
    images: Path = IMAGES
    asked: str = ""
    most: int = 32
    limited: bool = True
    gallery: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """For the processes of the limit: a task has functions that cannot be pickled, but a name."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "task"}
        return _work, (self.task.name, fields)

    @property
    def path(self) -> str:
        """The route, and the query that names the model."""
        return f"/v1/{self.task.path}" + (f"?model={self.asked}" if self.asked else "")

    @property
    def method(self) -> str:
        """The gRPC method's full name; its message has the images in the first fields, then the model."""
        return f"/lynceus.v1.Vision/{self.task.method}"

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of a request's images."""
        return self.task.images or (() if self.task.body is None else self.task.body.files)

    @property
    def plain(self) -> bool:
        """Whether an image is all of a body; else that is a form."""
        return len(self.fields) == 1 and not self.gallery

    @property
    def models(self) -> list[str]:
        """What the server must load for the route."""
        return [self.model, *([self.embedder] if self.embedder else [])]

    @property
    def content_type(self) -> str:
        """Of the bodies."""
        if self.plain:
            return "image/jpeg"
        return f"multipart/form-data; boundary={BOUNDARY}"


def _work(task: str, fields: dict[str, Any]) -> Work:
    return Work(next(one for one in SERVED if one.name == task), **fields)


FACES = DATA / "faces"
NET, EMBEDDER = "efficientnet-lite0", "dlib-resnet"
TASKS = {
    "classify": Work(CLASSIFY, NET),
    "digits": Work(CLASSIFY, "lenet5", asked="lenet5"),
    "detect": Work(DETECT, "efficientdet-lite0"),
    "people": Work(DETECT, "yolo-person", asked="yolo-person"),
    "faces": Work(FACES_DETECT, "mtcnn", images=FACES),
    "embed": Work(FACES_EMBED, "mtcnn", EMBEDDER, images=FACES),
    "verify": Work(FACES_VERIFY, "mtcnn", EMBEDDER, largest=True, images=FACES),
    "stylize": Work(STYLIZE, "paintings", most=4),
    "vectors": Work(EMBED, NET),
    "identify": Work(FACES_IDENTIFY, "mtcnn", EMBEDDER, images=FACES, limited=False, gallery=100),
    "explain": Work(EXPLAIN, NET, limited=False),
    "analyze": Work(ANALYZE, NET, limited=False),
}
LIMITED = {name: work for name, work in TASKS.items() if work.limited}


def images_in(folder: Path) -> list[Path]:
    """The JPEGs of a folder and of those in it, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(folder.rglob("*.jpg"))
    if not found:
        raise FileNotFoundError(f"no *.jpg in {folder}; name a folder with --images")
    return found


def requests_of(work: Work, images: Sequence[Path]) -> list[tuple[Path, ...]]:
    """The images of each request: one for each image, which begins it and whose neighbours follow."""
    count = len(images)
    return [
        tuple(images[(first + step) % count] for step in range(len(work.fields))) for first in range(count)
    ]


@contextlib.contextmanager
def bodies_of(work: Work, images: Sequence[Path]) -> Iterator[list[Path]]:
    """Files with the HTTP requests' bodies: the images as they are, or multipart ones made for a while."""
    if work.plain:
        yield list(images)
        return
    with _written(body(work, request) for request in _read(work, images)) as bodies:
        yield bodies


@contextlib.contextmanager
def messages_of(work: Work, images: Sequence[Path]) -> Iterator[list[Path]]:
    """Files that hold the gRPC calls' messages, made for a while."""
    with _written(message_to(work, request) for request in _read(work, images)) as messages:
        yield messages


def _read(work: Work, images: Sequence[Path]) -> Iterator[list[bytes]]:
    for request in requests_of(work, images):
        yield [image.read_bytes() for image in request]


@contextlib.contextmanager
def _written(contents: Iterable[bytes]) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="lynceus-bodies-") as folder:
        paths = []
        for number, content in enumerate(contents):
            paths.append(Path(folder) / f"{number:05d}.body")
            paths[-1].write_bytes(content)
        yield paths


def body(work: Work, images: Sequence[bytes]) -> bytes:
    """The body of a request with these images, one for each field."""
    if work.plain:
        return images[0]
    texts = {"gallery": json.dumps(known_faces(work.gallery)).encode()} if work.gallery else {}
    return multipart(work.fields, images, texts)


def message_to(work: Work, images: Sequence[bytes]) -> bytes:
    """The message of a call with these images, one for each field."""
    entries = (
        field(1, face["name"].encode()) + field(2, np.array(face["embedding"], "<f4").tobytes())
        for face in known_faces(work.gallery)
    )
    return message(images, work.asked) + b"".join(field(GALLERY, entry) for entry in entries)


@lru_cache
def known_faces(count: int) -> list[dict[str, Any]]:
    """A gallery of so many unit vectors as embeddings, always the same."""
    rows = np.random.default_rng(2026).normal(size=(count, 128))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [
        {"name": f"person {index}", "embedding": row.astype(np.float32).tolist()}
        for index, row in enumerate(rows)
    ]


def multipart(
    fields: Sequence[str], images: Sequence[bytes], texts: Mapping[str, bytes] | None = None
) -> bytes:
    """A `multipart/form-data` body (RFC 7578) of JPEGs and texts, bounded by `BOUNDARY`."""
    begin = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    parts = [
        f'{begin}{field}"; filename="{field}.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode() + image
        for field, image in zip(fields, images, strict=True)
    ]
    parts += [f'{begin}{name}"\r\n\r\n'.encode() + text for name, text in (texts or {}).items()]
    return b"".join([*(part + b"\r\n" for part in parts), f"--{BOUNDARY}--\r\n".encode()])


def check_answer(address: str, work: Work, body: Path) -> None:
    """Posts one body and looks at the answer, so that no rate of nonsense is measured.

    Raises:
        RuntimeError: it is not the task's answer.
    """
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", work.path, body.read_bytes(), {"Content-Type": work.content_type})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if work.task.image_first and response.headers.get_content_maintype() == "image":
        return
    answer: Any = json.loads(text) if response.status == 200 else {}
    if work.task.image_first or not answer.keys() >= work.task.example.keys():
        raise RuntimeError(f"POST {work.path} gave {response.status}: {text[:500]!r}")
