"""A model as the Open Inference Protocol sees it: its tensors, its parameters, and the tasks that it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from models.errors import ParameterInvalid, echoed
from models.parameters import properties
from models.pipeline import Card
from service.engine.engine import Answer, Engine
from service.engine.runner import Runner
from service.oip.tensors import BYTES
from service.request import RequestContext
from service.tasks import TASKS
from service.tasks.render import ImageFormat
from service.tasks.task import Arrays, Task, Tensors, TensorSpec

IMAGE: Final = "image"
PIXELS: Final = "pixels"
FORMAT: Final = "format"
"""The parameter that says in which format an image is answered."""


@dataclass(frozen=True, slots=True)
class Call:
    """One task of a request and its parameters."""

    task: Task[Any, Any]
    params: Any
    image_format: ImageFormat = "jpeg"


class ModelAdapter:
    """A runner behind the protocol.

    Encoded images come in as `image`. Where the network takes a plain image of one size, that comes in as
    `pixels`; a request has one of the two.

    Args:
        engine: of the worker.
        runner: of the model.

    Attributes:
        tasks: that the model does; what a request gets that names no outputs are those of the first.
        outputs: of all its tasks, by name.
    """

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self.runner = runner
        self.tasks = [
            task
            for task in TASKS
            if task.tensors is not None and task.models[task.tensors.model] is runner.card.task
        ]
        self.outputs: dict[str, tuple[TensorSpec, Task[Any, Any]]] = {
            spec.name: (spec, task) for task in self.tasks for spec in _tensors(task).outputs(runner.card)
        }

    @property
    def card(self) -> Card:
        """The model's public card."""
        return self.runner.card

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes, one of them at a time."""
        # One dimension besides the batch: perf_analyzer sends no tensor without any.
        image = TensorSpec(IMAGE, BYTES, (1,))
        pipeline = self.runner.pipeline
        if not pipeline.takes_pixels:
            return (image,)
        return image, TensorSpec(PIXELS, "UINT8", tuple(pipeline.shapes[0]))

    def parameters(self, task: Task[Any, Any]) -> list[str]:
        """Names of the parameters that a request may give for a task."""
        tensors = _tensors(task)
        names = [name for name in task.params.model_fields if name not in (tensors.model, *tensors.fixed)]
        return [*names, FORMAT] if task.run is None else names

    def schema(self, task: Task[Any, Any]) -> dict[str, Any]:
        """The same with types, bounds, defaults and descriptions, as JSON Schema has them."""
        known = properties(task.params)
        image_format = {"enum": list(get_args(ImageFormat)), "default": "jpeg"}
        return {name: known.get(name, image_format) for name in self.parameters(task)}

    def calls(self, tasks: Sequence[Task[Any, Any]], given: Mapping[str, Any]) -> list[Call]:
        """The tasks that a request asks for, with its parameters.

        Raises:
            ParameterInvalid: one is unknown, of another type or out of its range.
        """
        known = {name for task in tasks for name in self.parameters(task)}
        for name in given:
            if name not in known:
                raise ParameterInvalid(
                    name, f"there is no parameter {echoed(name)}; there are: {', '.join(sorted(known))}"
                )
        found = []
        for task in tasks:
            tensors = _tensors(task)
            own = {name: given[name] for name in self.parameters(task) if name in given}
            image_format = own.pop(FORMAT, "jpeg")
            if image_format not in get_args(ImageFormat):
                raise ParameterInvalid(FORMAT, f"format must be one of {', '.join(get_args(ImageFormat))}")
            params = task.params.of({**own, **tensors.fixed, tensors.model: self.card.name})
            found.append(Call(task, params, image_format))
        return found

    async def image(self, call: Call, data: bytes, context: RequestContext) -> Answer[Any]:
        """The result of an encoded image. Raises as the task does."""
        task, images = call.task, {IMAGE: data}
        if task.run is not None:
            return await task.run(self._engine, images, call.params, context)
        assert task.draw is not None  # noqa: S101 (a task has one of them)
        return await task.draw(self._engine, images, call.params, call.image_format, context)

    async def pixels(self, call: Call, pixels: NDArray[np.uint8], context: RequestContext) -> Answer[Any]:
        """The result of what the network itself takes, uint8 [H, W, 3]; batched with others' images."""
        prepare = partial(self.runner.pipeline.prepare_tensor, pixels, call.params)
        answer = await self._engine.infer_prepared(self.runner, prepare, context.deadline)
        make = _tensors(call.task).of_pixels
        if make is None:
            return answer
        height, width, _ = pixels.shape
        return Answer(answer.model, make(self.card, answer.result, width, height), answer.timing)

    def collect(self, call: Call, results: Sequence[Any]) -> Arrays:
        """The images' results by output: arrays, the batch first, or the elements of BYTES."""
        return _tensors(call.task).collect(self.card, results, call.params)


def _tensors(task: Task[Any, Any]) -> Tensors[Any, Any]:
    assert task.tensors is not None  # noqa: S101 (others are no task of a model here)
    return task.tensors
