"""An inference of the Open Inference Protocol, once for both transports."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.errors import ECHO, ModelError, ParameterInvalid, echoed
from models.parameters import Parameters
from service.engine.engine import together
from service.oip.adapter import IMAGE, VERSION, ModelAdapter
from service.oip.request import InferRequest, InferResponse, take_parameters
from service.oip.tensors import BYTES, InputTensor, Tensor
from service.request import RequestContext
from service.tasks.task import TensorSpec

T = TypeVar("T")

ID_LENGTH: Final = 1024
"""Most characters of a request's id, which comes back in the answer."""


class Common(Parameters):
    """What a request to any model may give besides. There is one queue: `priority` does nothing."""

    timeout: int = Field(0, ge=0, lt=2**63, description="microseconds until the answer is of no use; 0: none")
    priority: int = Field(0, ge=0, lt=2**63)
    top_k: int | None = Field(None, description="the best classes in place of all numbers")


async def infer(adapter: ModelAdapter, request: InferRequest, context: RequestContext) -> InferResponse:
    """Runs every image of a request by itself, so that it shares batches with other requests.

    Args:
        adapter: the model.
        request: as received.
        context: its deadline may only be shortened by the request's own `timeout`.

    Raises:
        ParameterInvalid: what is wrong with the request, by the name of the tensor or parameter.
        ImageInvalid, ImageTooLarge, MediaTypeUnsupported: the bytes of an image, named by its index.
        Overloaded, NotReady, DeadlineExceeded: the service.
    """
    if len(request.id) > ID_LENGTH:
        raise ParameterInvalid("id", f"the id has {len(request.id)} characters; at most {ID_LENGTH}")
    given = take_parameters(request.parameters)
    names = {"timeout", "priority"}
    if any(spec.classes for spec in adapter.outputs.values()):
        names.add("top_k")
    common = Common.of({name: given.pop(name) for name in names & given.keys()})
    if common.timeout:
        context.deadline = min(context.deadline, time.monotonic() + common.timeout / 1e6)
    wanted = _wanted(adapter.outputs, request.outputs, common.top_k)
    params, image_format = adapter.given(given)
    tensor = _input(adapter, request.inputs)
    one: Callable[[Any], Awaitable[Any]] = partial(adapter.pixels, params, context)
    read: Callable[[], Any] = tensor.array
    if tensor.datatype == BYTES:
        one, read = partial(adapter.image, params, image_format, context), tensor.elements
    decoder = adapter.service.engine.in_decoder
    images = read() if tensor.light else await decoder(read, context.deadline)
    calls: list[Callable[[], Awaitable[Any]]] = [partial(one, image) for image in images]
    if len(calls) > 1:
        calls = [partial(_named, f"{tensor.name}[{index}]", call) for index, call in enumerate(calls)]
    answers = await together(calls, adapter.runner.window)
    arrays = adapter.tensors.collect(adapter.card, [answer.result for answer in answers], params)
    outputs = [_output(spec, arrays[spec.name], classes) for spec, classes in wanted]
    return InferResponse(adapter.card.name, VERSION, request.id, outputs)


def _input(adapter: ModelAdapter, given: Sequence[InputTensor]) -> InputTensor:
    """The one input, with a datatype and a shape that are right; its data is not looked at."""
    specs = {spec.name: spec for spec in adapter.inputs}
    names = " or ".join(specs)
    for tensor in given:
        if tensor.name not in specs:
            raise ParameterInvalid(tensor.name, f"there is no input {echoed(tensor.name)}; send {names}")
    if len(given) != 1:
        raise ParameterInvalid("inputs", f"{len(given)} inputs; send one, {names}")
    (tensor,) = given
    spec, shape, most = specs[tensor.name], tensor.shape, adapter.service.settings.max_images
    wrong = ""
    if tensor.datatype != spec.datatype:
        wrong = f"is {spec.datatype}, not {tensor.datatype[:ECHO]}"
    elif not shape or not (shape[1:] == spec.dims or (spec.name == IMAGE and len(shape) == 1)):
        wrong = f"has the shape {[-1, *spec.dims]}, not {echoed(list(shape[:ECHO]))}"
    elif not 1 <= shape[0] <= most:
        wrong = f"holds from 1 to {most} images, not {shape[0]}"
    if wrong:
        raise ParameterInvalid(spec.name, f"the input {spec.name!r} {wrong}")
    return tensor


async def _named(name: str, call: Callable[[], Awaitable[T]]) -> T:
    """A call whose errors say of which of several images they are."""
    try:
        return await call()
    except ModelError as exc:
        exc.image = name
        exc.args = (f"{name}: {exc}",)
        raise


def _wanted(
    specs: Mapping[str, TensorSpec], requested: Sequence[tuple[str, int | None]], top_k: int | None
) -> list[tuple[TensorSpec, int | None]]:
    """The outputs to give, each with the number of best classes to give in place of its numbers."""
    if not requested:
        requested = [(name, None) for name, spec in specs.items() if not spec.asked]
    if len({name for name, _ in requested}) != len(requested):
        raise ParameterInvalid("outputs", "an output is asked for twice")
    wanted = []
    for name, classes in requested:
        spec = specs.get(name)
        if spec is None:
            known = ", ".join(specs)
            raise ParameterInvalid(name, f"there is no output {echoed(name)}; there are: {known}")
        if classes is not None and not spec.classes:
            raise ParameterInvalid("classification", f"the output {name!r} has no classes")
        limit = "top_k" if classes is None else "classification"
        if classes is None and spec.classes:
            classes = top_k
        if classes is not None and not 1 <= classes <= len(spec.classes):
            raise ParameterInvalid(limit, f"{limit} must be from 1 to {len(spec.classes)}")
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
