"""The protocol's one implementation, which both doors only translate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import ECHO, ModelError, ModelUnknown, ParameterInvalid, echoed
from models.pipeline import Task
from service.dataplane import Answer, DataPlane, Trace
from service.errors import DeadlineExceeded, NotReady
from service.faces import FaceDesk
from service.inference.documents import VERSION, Document, configuration, metadata, statistics
from service.inference.faces import EmbedderServed, FacesServed
from service.inference.request import InferRequest, InferResponse, Parameters, Wanted
from service.inference.served import IMAGE, Served, Spec
from service.inference.styles import StyleServed
from service.inference.tasks import ClassifierServed, DetectorServed
from service.inference.tensors import BYTES, Given, Tensor
from service.metrics import Metrics
from service.runner import Runner, State
from service.statistics import read

T = TypeVar("T")
Call = Callable[[], Awaitable[Answer[Any]]]

ID_LENGTH: Final = 1024
"""Most characters of a request's id, which comes back in the answer."""

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
STATES: Final = {
    State.STARTING: ("LOADING", ""),
    State.READY: ("READY", ""),
    State.DRAINING: ("UNLOADING", ""),
    State.FAILED: ("UNAVAILABLE", "the model has failed"),
}


class InferenceDesk:
    """Everything that the protocol asks of this service.

    Args:
        plane: the data plane.
        faces: what it says of faces.
        metrics: where the statistics are read from.
        max_images: most pictures of one request.
    """

    def __init__(self, plane: DataPlane, faces: FaceDesk, metrics: Metrics, max_images: int) -> None:
        self._plane = plane
        self._metrics = metrics
        self.max_images = max_images
        self._served = {name: _serve(plane, runner, faces) for name, runner in plane.runners.items()}

    def server(self) -> Document:
        """`GET v2`."""
        return {"name": "lynceus", "version": "1", "extensions": list(EXTENSIONS)}

    def check_live(self) -> None:
        """
        Raises:
            NotReady: a model has failed for good.
        """
        if not self._plane.alive:
            raise NotReady("a model has failed; the process must start anew")

    def check_ready(self, model: str | None = None, version: str = "") -> None:
        """
        Raises:
            NotReady: the service, or the model, does not answer now.
            ModelUnknown: there is no such model or version.
        """
        if model is None:
            if not self._plane.ready:
                raise NotReady("the service is starting or stopping")
        elif not self._plane.is_ready(self._find(model, version).card.name):
            raise NotReady(f"the model {model} is {self._plane.runners[model].state.value}")

    def metadata(self, model: str, version: str = "") -> Document:
        """`GET v2/models/{model}`.

        Raises:
            ModelUnknown: there is no such model or version.
        """
        return metadata(self._find(model, version))

    def check_known(self, model: str, version: str) -> None:
        """
        Raises:
            ModelUnknown: there is no such model or version.
        """
        self._find(model, version)

    def configuration(self, model: str, version: str = "") -> Document:
        """`GET v2/models/{model}/config`. Raises as `metadata` does."""
        return configuration(self._find(model, version), self.max_images)

    def statistics(self, model: str = "", version: str = "") -> Document:
        """`GET v2/models[/{model}]/stats`, of all workers. Raises as `metadata` does."""
        names = [self._find(model, version).card.name] if model else list(self._served)
        figures = read(self._metrics)
        inline = self._plane.inline
        return {"model_stats": [statistics(name, figures[name], inline=inline) for name in names]}

    def index(self, *, ready: bool = False) -> list[Document]:
        """`POST v2/repository/index`: all models, or those that answer now."""
        entries = []
        for name, served in self._served.items():
            state, reason = STATES[served.runner.state]
            if state == "READY" or not ready:
                entries.append({"name": name, "version": VERSION, "state": state, "reason": reason})
        return entries

    def window(self, model: str, version: str) -> int:
        """Items that a model takes at once of one stream (see `Runner`). Raises as `metadata` does."""
        return self._find(model, version).runner.window

    async def infer(self, request: InferRequest, deadline: float) -> InferResponse:
        """Runs every picture of a request by itself, so that it shares batches with whoever else asks.

        Args:
            request: as it came.
            deadline: on the monotonic clock; the request's own `timeout` may only shorten it.

        Raises:
            ModelUnknown: there is no such model or version.
            ParameterInvalid: what is wrong with the request, by the name of the tensor or parameter.
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: the bytes of a picture, named by its index.
            Overloaded, NotReady, DeadlineExceeded: the service.
        """
        served = self._find(request.model, request.version)
        if len(request.id) > ID_LENGTH:
            raise ParameterInvalid("id", f"the id has {len(request.id)} characters; at most {ID_LENGTH}")
        parameters = Parameters(request.parameters)
        deadline = _sooner(deadline, parameters)
        wanted = _wanted(served, request.outputs, parameters)
        options = served.options(parameters)
        parameters.finish()
        answers = await self._run(served, self._input(served, request.inputs), options, deadline)
        arrays = served.collect([answer.result for answer in answers])
        outputs = [_output(spec, arrays[spec.name], classes) for spec, classes in wanted]
        trace = max((answer.trace for answer in answers), key=_seconds)
        return InferResponse(served.card.name, VERSION, request.id, outputs, trace)

    def _find(self, model: str, version: str) -> Served:
        served = self._served.get(model)
        if served is None:
            raise ModelUnknown(
                f"no model named {echoed(model)} is served; these are: {', '.join(self._served)}"
            )
        if version not in ("", VERSION):
            raise ModelUnknown(f"the model {model!r} has no version {echoed(version)}, only {VERSION!r}")
        return served

    def _input(self, served: Served, given: Sequence[Given]) -> Given:
        """The one input, with a datatype and a shape that are right; its data is not looked at."""
        specs = {spec.name: spec for spec in served.inputs}
        names = " or ".join(specs)
        for tensor in given:
            if tensor.name not in specs:
                raise ParameterInvalid(tensor.name, f"there is no input {echoed(tensor.name)}; send {names}")
        if len(given) != 1:
            raise ParameterInvalid("inputs", f"{len(given)} inputs; send one, {names}")
        (tensor,) = given
        spec, shape = specs[tensor.name], tensor.shape
        if tensor.datatype != spec.datatype:
            raise ParameterInvalid(
                spec.name,
                f"the input {spec.name!r} is {spec.datatype}, not {tensor.datatype[:ECHO]}",
            )
        fits = shape[1:] == spec.dims or (spec.name == IMAGE and len(shape) == 1)
        if not shape or not fits:
            raise ParameterInvalid(
                spec.name,
                f"the input {spec.name!r} has the shape {[-1, *spec.dims]}, not {echoed(list(shape[:ECHO]))}",
            )
        if not 1 <= shape[0] <= self.max_images:
            raise ParameterInvalid(
                spec.name, f"{shape[0]} pictures in {spec.name!r}; from 1 to {self.max_images} are accepted"
            )
        return tensor

    async def _run(self, served: Served, given: Given, options: Any, deadline: float) -> list[Answer[Any]]:
        calls: list[Call]
        if given.datatype == BYTES:
            elements = await self._read(given, given.elements, deadline)
            calls = [partial(served.picture, data, options, deadline) for data in elements]
        else:
            array = await self._read(given, given.array, deadline)
            calls = [partial(served.tensor, pixels, options, deadline) for pixels in array]
        if len(calls) == 1:  # the usual case needs no task of its own
            return [await calls[0]()]
        return await _together(calls, given.name, served.runner.window)

    async def _read(self, given: Given, read: Callable[[], T], deadline: float) -> T:
        """A tensor's values: at once, or in a decoding thread where that takes long."""
        if given.light:
            return read()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._plane.in_decoder(read)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the tensors were read") from None


async def _together(calls: Sequence[Call], name: str, window: int) -> list[Answer[Any]]:
    """All of them, so many at once; the first that fails calls off the others and is named by its index."""
    free = asyncio.Semaphore(window)

    async def one(index: int, call: Call) -> Answer[Any]:
        try:
            async with free:
                return await call()
        except ModelError as exc:
            exc.image = f"{name}[{index}]"
            exc.args = (f"{exc.image}: {exc}",)
            raise

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(index, call)) for index, call in enumerate(calls)]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


def _serve(plane: DataPlane, runner: Runner, faces: FaceDesk) -> Served:
    match runner.card.task:
        case Task.CLASSIFY:
            return ClassifierServed(plane, runner)
        case Task.DETECT:
            return DetectorServed(plane, runner)
        case Task.FACES:
            return FacesServed(plane, runner)
        case Task.EMBED:
            return EmbedderServed(plane, runner, faces)
        case Task.STYLE:
            return StyleServed(plane, runner)


def _sooner(deadline: float, parameters: Parameters) -> float:
    """The deadline with the request's `timeout` in microseconds. One queue: `priority` does nothing."""
    timeout, priority = parameters.integer("timeout"), parameters.integer("priority")
    for name, value in (("timeout", timeout), ("priority", priority)):
        if value is not None and value < 0:
            raise ParameterInvalid(name, f"{name} must not be negative")
    return min(deadline, time.monotonic() + timeout / 1e6) if timeout else deadline


def _wanted(
    served: Served, wishes: Sequence[Wanted], parameters: Parameters
) -> list[tuple[Spec, int | None]]:
    """The outputs to give, each with the number of best classes to give in place of its numbers."""
    specs = {spec.name: spec for spec in served.outputs}
    top_k = parameters.integer("top_k") if any(spec.classes for spec in served.outputs) else None
    if not wishes:
        wishes = [Wanted(name) for name in specs]
    if len({wish.name for wish in wishes}) != len(wishes):
        raise ParameterInvalid("outputs", "an output is asked for twice")
    wanted = []
    for wish in wishes:
        spec = specs.get(wish.name)
        if spec is None:
            raise ParameterInvalid(
                wish.name, f"there is no output {echoed(wish.name)}; there are: {', '.join(specs)}"
            )
        if wish.classes is not None and not spec.classes:
            raise ParameterInvalid("classification", f"the output {wish.name!r} has no classes")
        name = "top_k" if wish.classes is None else "classification"
        classes = top_k if wish.classes is None else wish.classes
        if classes is not None and not 1 <= classes <= len(spec.classes):
            raise ParameterInvalid(name, f"{name} must be from 1 to {len(spec.classes)}")
        wanted.append((spec, classes))
    return wanted


def _output(spec: Spec, values: NDArray[Any] | Sequence[bytes], classes: int | None) -> Tensor:
    if not isinstance(values, np.ndarray):
        return Tensor(spec.name, BYTES, (len(values), *spec.dims), values, encoded=True)
    if classes is None:
        return Tensor(spec.name, spec.datatype, values.shape, values)
    best = np.argsort(-values, axis=1, kind="stable")[:, :classes]
    elements = [
        f"{row[index]:f}:{index}:{spec.classes[index]}".encode()
        for row, indices in zip(values, best, strict=True)
        for index in indices
    ]
    return Tensor(spec.name, BYTES, best.shape, elements)


def _seconds(trace: Trace) -> float:
    return trace.decode + trace.queue + trace.compute
