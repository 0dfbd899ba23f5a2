"""A model as the Open Inference Protocol sees it: its tensors, its parameters, and its task."""

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
from service.tasks.task import Arrays, TensorSpec

IMAGE: Final = "image"
PIXELS: Final = "pixels"
FORMAT: Final = "format"
"""The parameter that says in which format an image is answered."""
_TASKS: Final = {task.models[task.tensors.model]: (task, task.tensors) for task in TASKS if task.tensors}
"""By the kind of the models that do it."""


@dataclass(frozen=True, slots=True)
class Call:
    """The parameters of one request."""

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
        task: that the model does.
        outputs: of the task, by name.
    """

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self.runner = runner
        self.task, self._tensors = _TASKS[runner.card.task]
        self.outputs = {spec.name: spec for spec in self._tensors.outputs(runner.card)}

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

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters that a request may give."""
        own = (self._tensors.model, *self._tensors.fixed)
        names = [name for name in self.task.params.model_fields if name not in own]
        return [*names, FORMAT] if self.task.run is None else names

    @property
    def schema(self) -> dict[str, Any]:
        """The same with types, bounds, defaults and descriptions, as JSON Schema has them."""
        known = properties(self.task.params)
        image_format = {"enum": list(get_args(ImageFormat)), "default": "jpeg"}
        return {name: known.get(name, image_format) for name in self.parameters}

    def call(self, given: Mapping[str, Any]) -> Call:
        """What a request asks for with its parameters.

        Raises:
            ParameterInvalid: one is unknown, of another type or out of its range.
        """
        known = self.parameters
        for name in given:
            if name not in known:
                raise ParameterInvalid(
                    name, f"there is no parameter {echoed(name)}; there are: {', '.join(sorted(known))}"
                )
        own = dict(given)
        image_format = own.pop(FORMAT, "jpeg")
        if image_format not in get_args(ImageFormat):
            raise ParameterInvalid(FORMAT, f"format must be one of {', '.join(get_args(ImageFormat))}")
        params = self.task.params.of({**own, **self._tensors.fixed, self._tensors.model: self.card.name})
        return Call(params, image_format)

    async def image(self, call: Call, data: bytes, context: RequestContext) -> Answer[Any]:
        """The result of an encoded image. Raises as the task does."""
        task, images = self.task, {IMAGE: data}
        if task.run is not None:
            return await task.run(self._engine, images, call.params, context)
        assert task.draw is not None  # noqa: S101 (a task has one of them)
        return await task.draw(self._engine, images, call.params, call.image_format, context)

    async def pixels(self, call: Call, pixels: NDArray[np.uint8], context: RequestContext) -> Answer[Any]:
        """The result of what the network itself takes, uint8 [H, W, 3]; batched with others' images."""
        prepare = partial(self.runner.pipeline.prepare_tensor, pixels, call.params)
        answer = await self._engine.infer_prepared(self.runner, prepare, context.deadline)
        make = self._tensors.of_pixels
        if make is None:
            return answer
        height, width, _ = pixels.shape
        return Answer(answer.model, make(self.card, answer.result, width, height), answer.timing)

    def collect(self, call: Call, results: Sequence[Any]) -> Arrays:
        """The images' results by output: arrays, the batch first, or the elements of BYTES."""
        return self._tensors.collect(self.card, results, call.params)
