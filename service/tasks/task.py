"""A task as a value: the one definition that every transport reads.

HTTP, gRPC, the Open Inference Protocol, the OpenAPI document, the metrics' labels and the load tests read a
`Task`; none of them repeats its parameters, its bounds or its answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.parameters import Parameters
from models.pipeline import Card, Kind
from service.engine.engine import Answer, Engine, KeptImage
from service.request import RequestContext
from service.tasks.render import Draw

P = TypeVar("P", bound=Parameters)
R = TypeVar("R")

Encoded = Mapping[str, bytes]
"""Images by name."""
Images = Mapping[str, bytes | KeptImage]
"""By name: encoded, or decoded already for several tasks."""
Arrays = Mapping[str, NDArray[Any] | Sequence[bytes]]
Document = Mapping[str, Any]


class AnswerModel(BaseModel):
    """Base of every answer: fields may be results with attributes of those names; others are a bug."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True, protected_namespaces=())


class Body(BaseModel):
    """Base of the body of a task that takes more than images: what it does not name are parameters.

    Attributes:
        files: those of its fields that are encoded images; where there are some, it may come as a form, with
            the other fields as JSON texts.
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True, protected_namespaces=())
    files: ClassVar[tuple[str, ...]] = ()

    @property
    def parameters(self) -> list[tuple[str, Any]]:
        """Names and values beside its own fields; null is as if left out."""
        return [(name, value) for name, value in (self.model_extra or {}).items() if value is not None]


@dataclass(frozen=True, slots=True)
class Rows:
    """The long list that a task's body may hold: by so much the transports' bounds of a body are wider.

    Attributes:
        entries: of the list.
        numbers: in all entries together.
        text: bytes of UTF-8 of an entry's texts.
        message: name of the gRPC message of an entry.
    """

    entries: int
    numbers: int
    text: int
    message: str


class Size(AnswerModel):
    """The upright original's size in pixels, and what else there is in its file."""

    width: int
    height: int
    frames: int = Field(
        1,
        exclude_if=lambda frames: frames == 1,
        description="of the animation whose first one this is, or pages of the TIFF; left out where it is 1",
    )

    @classmethod
    def of(cls, answer: Answer[Any]) -> Self:
        """Of a result that has the image's size."""
        return cls(width=answer.result.width, height=answer.result.height, frames=answer.frames)

    @staticmethod
    def document(answer: Answer[Any]) -> Document:
        """The same as plain data, as JSON has it."""
        size = {"width": answer.result.width, "height": answer.result.height}
        return size if answer.frames == 1 else {**size, "frames": answer.frames}


class ImageAnswer(AnswerModel):
    """Base of a model's answer on one image."""

    model: str
    image: Size

    @classmethod
    def of(cls, answer: Answer[Any], **fields: object) -> Self:
        """Of a result that has the image's size."""
        return cls(model=answer.model, image=Size.of(answer), **fields)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model takes or gives.

    Attributes:
        name, datatype: as the Open Inference Protocol has them.
        dims: its shape without the batch, which comes first; -1 where it varies.
        classes: names of its last dimension's entries, where they are classes to choose the best of.
        asked: it is given only where a request names it.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    classes: tuple[str, ...] = ()
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Tensors(Generic[P, R]):
    """A task over the Open Inference Protocol, where it belongs to the models of one kind.

    Attributes:
        outputs: of a model, by its card.
        collect: card, results of several images, parameters -> arrays by output, the batch first, or the
            elements of BYTES.
        model: the parameter that names the model.
        of_pixels: card, what the pipeline gives for the network's own input, its width and height -> a
            result; None: that is the result.
        fixed: parameters that have one value here, since an output's own options stand in for them.
    """

    outputs: Callable[[Card], tuple[TensorSpec, ...]]
    collect: Callable[[Card, Sequence[R], P], Arrays]
    model: str = "model"
    of_pixels: Callable[[Card, Any, int, int], R] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[P, R]):
    """One thing that the service does with images.

    Attributes:
        name: label of metrics and key of the registry.
        path: of its route, below ``/v1/``.
        method: its name in the gRPC service.
        summary: for the documents.
        params: names, bounds, defaults and descriptions of its parameters.
        models: parameters that name a model -> its kind; the first is the one whose queue bounds a request.
        answer: type of its JSON answer; None: it answers images only.
        example: of that answer.
        images: names of its images; none where `body` is what it takes.
        body: what a task takes that is not images alone: a JSON body.
        rows: the long list in that body, where there is one.
        several: whether a request may hold several images, each answered by itself.
        run: engine, images (or body), parameters, context -> the result.
        present: the result, the parameters -> the answer, or what is the same as plain data.
        reply: the same as the fields of the gRPC reply, where they are laid out otherwise.
        draw: the result as an image, where it has one.
        image_first: an image is what it answers if the client asks for nothing else.
        tensors: how it answers over the Open Inference Protocol, where it does.
        gives: headers of its answer, as `RequestContext.headers` has them: description, JSON type, example.
        errors: besides those of every task.
        stream: whether it has a stream of frames over gRPC.
    """

    name: str
    path: str
    method: str
    summary: str
    params: type[P]
    models: Mapping[str, Kind]
    answer: Any = None
    example: Document = field(default_factory=dict)
    images: tuple[str, ...] = ("image",)
    body: type[Body] | None = None
    rows: Rows | None = None
    several: bool = True
    run: Callable[[Engine, Any, P, RequestContext], Awaitable[Answer[R]]] | None = None
    present: Callable[[Answer[R], P], AnswerModel | Document] | None = None
    reply: Callable[[Answer[R], P], Document] | None = None
    draw: Draw | None = None
    image_first: bool = False
    tensors: Tensors[P, R] | None = None
    gives: Mapping[str, tuple[str, str, Any]] = field(default_factory=dict)
    errors: tuple[type[Exception], ...] = ()
    stream: bool = False

    def presented(self, answer: Answer[R], params: P) -> AnswerModel | Document:
        """The answer to a request; of a task that is run."""
        assert self.present is not None  # noqa: S101
        return self.present(answer, params)


def one_inference(kind: Kind) -> Callable[[Engine, Images, Any, RequestContext], Awaitable[Answer[Any]]]:
    """The `run` of a task that is one inference, by the model of a kind that `model` names."""

    async def run(engine: Engine, images: Images, params: Any, context: RequestContext) -> Answer[Any]:
        runner = engine.find(kind, params.model)
        return await engine.infer(runner, images["image"], params, context.deadline)

    return run


def table(rows: Sequence[Any], *dims: int) -> NDArray[np.float32]:
    """Rows of numbers -> float32 [k, *dims], with these dimensions even if there are none."""
    return np.array(rows, np.float32).reshape(len(rows), *dims)


def padded(rows: Sequence[NDArray[Any]], fill: float = 0) -> NDArray[Any]:
    """Arrays [k, ...] with a k of each -> [N, largest k, ...], what is missing filled up."""
    longest = max((len(row) for row in rows), default=0)
    together = np.full((len(rows), longest, *rows[0].shape[1:]), fill, rows[0].dtype)
    for index, row in enumerate(rows):
        together[index, : len(row)] = row
    return together


def counts(rows: Sequence[Sequence[Any]]) -> NDArray[np.int64]:
    """How many of each are no padding."""
    return np.array([len(row) for row in rows], np.int64)
