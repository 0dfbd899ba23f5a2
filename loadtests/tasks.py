"""What is measured: each task of the service with its models, and the bodies that are posted."""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.tasks import TASKS as SERVED
from service.tasks.analyze import ANALYZE
from service.tasks.classify import CLASSIFY
from service.tasks.detect import DETECT
from service.tasks.embed import EMBED
from service.tasks.explain import EXPLAIN
from service.tasks.faces.detect import FACES_DETECT
from service.tasks.faces.embed import FACES_EMBED
from service.tasks.faces.verify import FACES_VERIFY
from service.tasks.stylize import STYLIZE
from service.tasks.task import Task

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
IMAGES = DATA / "imagenet-sample"
BOUNDARY = "lynceus-2b1f5c60a94e"


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
    """

    task: Task[Any, Any]
    model: str
    embedder: str | None = None
    largest: bool = False
    images: Path = IMAGES
    asked: str = ""
    most: int = 32
    limited: bool = True

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
        """Names of a request's images; several make a multipart body."""
        return self.task.images

    @property
    def models(self) -> list[str]:
        """What the server must load for the route."""
        return [self.model, *([self.embedder] if self.embedder else [])]

    @property
    def content_type(self) -> str:
        """Of the bodies."""
        if len(self.fields) == 1:
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
    "faces": Work(FACES_DETECT, "mtcnn", images=FACES),
    "embed": Work(FACES_EMBED, "mtcnn", EMBEDDER, images=FACES),
    "verify": Work(FACES_VERIFY, "mtcnn", EMBEDDER, largest=True, images=FACES),
    "stylize": Work(STYLIZE, "paintings", most=4),
    "vectors": Work(EMBED, NET),
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
    if len(work.fields) == 1:
        yield list(images)
        return
    with _written(multipart(work.fields, request) for request in _read(work, images)) as bodies:
        yield bodies


@contextlib.contextmanager
def messages_of(work: Work, images: Sequence[Path]) -> Iterator[list[Path]]:
    """Files that hold the gRPC calls' messages, made for a while."""
    with _written(message(request, work.asked) for request in _read(work, images)) as messages:
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


def message(images: Sequence[bytes], model: str = "") -> bytes:
    """A protobuf message whose fields 1, 2 ... are these bytes (https://protobuf.dev/programming-guides/encoding),
    and the next one the model's name, if there is one."""
    parts = []
    for number, content in enumerate([*images, *([model.encode()] if model else [])], start=1):
        length, varint = len(content), bytearray()
        while length > 127:
            varint.append(length & 127 | 128)
            length >>= 7
        parts.append(bytes([number << 3 | 2, *varint, length]) + content)
    return b"".join(parts)


def multipart(fields: Sequence[str], images: Sequence[bytes]) -> bytes:
    """A `multipart/form-data` body (RFC 7578) of JPEGs, bounded by `BOUNDARY`."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{field}.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + image
        + b"\r\n"
        for field, image in zip(fields, images, strict=True)
    ]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


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
