"""The Open Inference Protocol, once for both transports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import ECHO, ModelError, ModelUnknown, ParameterInvalid, echoed
from service.engine.engine import Answer, Engine, together
from service.engine.runner import State
from service.errors import DeadlineExceeded, NotReady
from service.oip.adapter import IMAGE, Call, ModelAdapter
from service.oip.documents import VERSION, Document, configuration, metadata, statistics
from service.oip.request import InferRequest, InferResponse, RequestedOutput, take_parameters
from service.oip.tensors import BYTES, InputTensor, Tensor
from service.request import RequestContext
from service.tasks.task import TensorSpec
from service.telemetry.metrics import Metrics
from service.telemetry.statistics import read

T = TypeVar("T")

ID_LENGTH: Final = 1024
"""Most characters of a request's id, which comes back in the answer."""

STATES: Final = {
    State.STARTING: ("LOADING", ""),
    State.READY: ("READY", ""),
    State.DRAINING: ("UNLOADING", ""),
    State.FAILED: ("UNAVAILABLE", "the model has failed"),
}


class OipService:
    """The operations of the protocol.

    Args:
        engine: of the worker.
        metrics: where the statistics are read from.
        max_images: most images of one request.
    """

    def __init__(self, engine: Engine, metrics: Metrics, max_images: int) -> None:
        self._engine = engine
        self._metrics = metrics
        self.max_images = max_images
        self._adapters = {name: ModelAdapter(engine, runner) for name, runner in engine.runners.items()}

    def check_live(self) -> None:
        """
        Raises:
            NotReady: a model has failed for good.
        """
        if not self._engine.alive:
            raise NotReady("a model has failed; the process must start anew")

    def check_ready(self, model: str | None = None, version: str = "") -> None:
        """
        Raises:
            NotReady: the service, or the model, does not answer now.
            ModelUnknown: there is no such model or version.
        """
        if model is None:
            if not self._engine.ready:
                raise NotReady("the service is starting or stopping")
        elif not self._engine.is_ready(self._find(model, version).card.name):
            raise NotReady(f"the model {model} is {self._engine.runners[model].state.value}")

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
        names = [self._find(model, version).card.name] if model else list(self._adapters)
        figures = read(self._metrics)
        inline = self._engine.inline
        return {"model_stats": [statistics(name, figures[name], inline=inline) for name in names]}

    def index(self, *, ready: bool = False) -> list[Document]:
        """`POST v2/repository/index`: all models, or those that answer now."""
        entries = []
        for name, adapter in self._adapters.items():
            state, reason = STATES[adapter.runner.state]
            if state == "READY" or not ready:
                entries.append({"name": name, "version": VERSION, "state": state, "reason": reason})
        return entries

    def window(self, model: str, version: str) -> int:
        """Items that a model takes at once of one stream (see `Runner`). Raises as `metadata` does."""
        return self._find(model, version).runner.window

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        """Runs every image of a request by itself, so that it shares batches with other requests.

        Args:
            request: as received.
            context: its deadline may only be shortened by the request's own `timeout`.

        Raises:
            ModelUnknown: there is no such model or version.
            ParameterInvalid: what is wrong with the request, by the name of the tensor or parameter.
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: the bytes of an image, named by its index.
            Overloaded, NotReady, DeadlineExceeded: the service.
        """
        adapter = self._find(request.model, request.version)
        if len(request.id) > ID_LENGTH:
            raise ParameterInvalid("id", f"the id has {len(request.id)} characters; at most {ID_LENGTH}")
        given = take_parameters(request.parameters)
        _shorten(context, given)
        wanted = _wanted(adapter, request.outputs, given)
        call = adapter.call(given)
        tensor = self._input(adapter, request.inputs)
        answers = await self._run(adapter, call, tensor, context)
        for answer in answers:
            context.record(answer.timing)
        arrays = adapter.collect(call, [answer.result for answer in answers])
        outputs = [_output(spec, arrays[spec.name], classes) for spec, classes in wanted]
        return InferResponse(adapter.card.name, VERSION, request.id, outputs)

    def _find(self, model: str, version: str) -> ModelAdapter:
        adapter = self._adapters.get(model)
        if adapter is None:
            raise ModelUnknown(
                f"no model named {echoed(model)} is served; these are: {', '.join(self._adapters)}"
            )
        if version not in ("", VERSION):
            raise ModelUnknown(f"the model {model!r} has no version {echoed(version)}, only {VERSION!r}")
        return adapter

    def _input(self, adapter: ModelAdapter, given: Sequence[InputTensor]) -> InputTensor:
        """The one input, with a datatype and a shape that are right; its data is not looked at."""
        specs = {spec.name: spec for spec in adapter.inputs}
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
                spec.name, f"{shape[0]} images in {spec.name!r}; from 1 to {self.max_images} are accepted"
            )
        return tensor

    async def _run(
        self, adapter: ModelAdapter, call: Call, tensor: InputTensor, context: RequestContext
    ) -> list[Answer[Any]]:
        work: list[Callable[[], Awaitable[Answer[Any]]]]
        if tensor.datatype == BYTES:
            elements = await self._read(tensor, tensor.elements, context)
            work = [partial(adapter.image, call, data, context) for data in elements]
        else:
            array = await self._read(tensor, tensor.array, context)
            work = [partial(adapter.pixels, call, pixels, context) for pixels in array]
        if len(work) == 1:
            return [await work[0]()]
        numbered = [partial(_named, f"{tensor.name}[{index}]", one) for index, one in enumerate(work)]
        return await together(numbered, adapter.runner.window)

    async def _read(self, tensor: InputTensor, read: Callable[[], T], context: RequestContext) -> T:
        """A tensor's values: at once, or in a decoding thread where that takes long."""
        if tensor.light:
            return read()
        try:
            async with asyncio.timeout(context.deadline - time.monotonic()):
                return await self._engine.in_decoder(read)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the tensors were read") from None


async def _named(name: str, call: Callable[[], Awaitable[T]]) -> T:
    """A call whose errors say of which of several images they are."""
    try:
        return await call()
    except ModelError as exc:
        exc.image = name
        exc.args = (f"{name}: {exc}",)
        raise


def _shorten(context: RequestContext, given: dict[str, Any]) -> None:
    """Takes the request's `timeout` in microseconds. There is one queue: `priority` does nothing."""
    for name in ("timeout", "priority"):
        value = _whole(given, name)
        if value is not None and value < 0:
            raise ParameterInvalid(name, f"{name} must not be negative")
        if name == "timeout" and value:
            context.deadline = min(context.deadline, time.monotonic() + value / 1e6)


def _whole(given: dict[str, Any], name: str) -> int | None:
    """Takes a whole number, which may come as text, out of the parameters.

    Raises:
        ParameterInvalid: it is there and no whole number.
    """
    value = given.pop(name, None)
    if value is None:
        return None
    try:
        if not isinstance(value, bool) and (not isinstance(value, float) or value.is_integer()):
            whole = int(value)
            if -(2**63) <= whole < 2**63:
                return whole
    except ValueError:
        pass
    raise ParameterInvalid(name, f"{name} must be a whole number")


def _wanted(
    adapter: ModelAdapter, requested: Sequence[RequestedOutput], given: dict[str, Any]
) -> list[tuple[TensorSpec, int | None]]:
    """The outputs to give, each with the number of best classes to give in place of its numbers."""
    specs = adapter.outputs
    top_k = _whole(given, "top_k") if any(spec.classes for spec in specs.values()) else None
    if not requested:
        requested = [RequestedOutput(name) for name, spec in specs.items() if not spec.asked]
    if len({output.name for output in requested}) != len(requested):
        raise ParameterInvalid("outputs", "an output is asked for twice")
    wanted = []
    for output in requested:
        spec = specs.get(output.name)
        if spec is None:
            raise ParameterInvalid(
                output.name, f"there is no output {echoed(output.name)}; there are: {', '.join(specs)}"
            )
        if output.classes is not None and not spec.classes:
            raise ParameterInvalid("classification", f"the output {output.name!r} has no classes")
        name = "top_k" if output.classes is None else "classification"
        classes = (top_k if spec.classes else None) if output.classes is None else output.classes
        if classes is not None and not 1 <= classes <= len(spec.classes):
            raise ParameterInvalid(name, f"{name} must be from 1 to {len(spec.classes)}")
        wanted.append((spec, classes))
    return wanted


def _output(spec: TensorSpec, values: NDArray[Any] | Sequence[bytes], classes: int | None) -> Tensor:
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
