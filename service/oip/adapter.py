"""A model as the Open Inference Protocol sees it: its tensors, its parameters, and its task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelUnknown, ParameterInvalid, echoed
from models.parameters import properties
from models.pipeline import Card
from service.app import Service
from service.engine.engine import Answer
from service.engine.runner import Runner
from service.oip.tensors import BYTES
from service.request import RequestContext
from service.tasks import TASKS
from service.tasks.render import ImageFormat
from service.tasks.task import TensorSpec

IMAGE: Final = "image"
PIXELS: Final = "pixels"
FORMAT: Final = "format"
"""The parameter that says in which format an image is answered."""
VERSION: Final = "1"
"""Of every model: a number in a string, as perf_analyzer wants it. Weights are identified by their digest."""
_TASKS: Final = {task.models[task.tensors.model]: (task, task.tensors) for task in TASKS if task.tensors}
"""By the kind of the models that do it."""


class ModelAdapter:
    """A runner behind the protocol.

    Encoded images come in as `image`. Where the network takes a plain image of one size, that comes in as
    `pixels`; a request has one of the two.

    Args:
        service: that runs the task.
        runner: of the model.

    Attributes:
        task: that the model does, and how that gives tensors.
        outputs: of the task, by name.
        parameters: names of those that a request may give.
    """

    def __init__(self, service: Service, runner: Runner) -> None:
        self.service, self.runner = service, runner
        self.task, self.tensors = _TASKS[runner.card.task]
        self.outputs = {spec.name: spec for spec in self.tensors.outputs(runner.card)}
        own = (self.tensors.model, *self.tensors.fixed)
        self.parameters = [name for name in self.task.params.model_fields if name not in own]
        if self.task.run is None:
            self.parameters.append(FORMAT)

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
    def schema(self) -> dict[str, Any]:
        """The same with types, bounds, defaults and descriptions, as JSON Schema has them."""
        known = properties(self.task.params)
        image_format = {"enum": list(get_args(ImageFormat)), "default": "jpeg"}
        return {name: known.get(name, image_format) for name in self.parameters}

    def given(self, given: Mapping[str, Any]) -> tuple[Any, ImageFormat]:
        """The task's parameters, and the format of an image, that a request's parameters ask for.

        Raises:
            ParameterInvalid: one is unknown, of another type or out of its range.
        """
        for name in given:
            if name not in self.parameters:
                known = ", ".join(sorted(self.parameters))
                raise ParameterInvalid(name, f"there is no parameter {echoed(name)}; there are: {known}")
        own = dict(given)
        image_format = own.pop(FORMAT, "jpeg")
        if image_format not in get_args(ImageFormat):
            raise ParameterInvalid(FORMAT, f"format must be one of {', '.join(get_args(ImageFormat))}")
        params = self.task.params.of({**own, **self.tensors.fixed, self.tensors.model: self.card.name})
        return params, image_format

    async def image(
        self, params: Any, image_format: ImageFormat, context: RequestContext, data: bytes
    ) -> Answer[Any]:
        """The result of an encoded image. Raises as the task does."""
        if self.task.run is not None:
            return await self.service.run(self.task, {IMAGE: data}, params, context)
        return await self.service.draw(self.task, {IMAGE: data}, params, image_format, context)

    async def pixels(self, params: Any, context: RequestContext, pixels: NDArray[np.uint8]) -> Answer[Any]:
        """The result of what the network itself takes, uint8 [H, W, 3]; batched with others' images."""
        prepare = partial(self.runner.pipeline.prepare_tensor, pixels, params)
        answer = await self.service.engine.infer_prepared(self.runner, prepare, context.deadline)
        context.record(answer.timing)
        make = self.tensors.of_pixels
        if make is None:
            return answer
        height, width, _ = pixels.shape
        return Answer(answer.model, make(self.card, answer.result, width, height), answer.timing)


def find(service: Service, model: str, version: str = "") -> ModelAdapter:
    """A served model.

    Raises:
        ModelUnknown: there is no such model or version.
    """
    runner = service.engine.named(model)
    if version not in ("", VERSION):
        raise ModelUnknown(f"the model {model!r} has no version {echoed(version)}, only {VERSION!r}")
    return ModelAdapter(service, runner)
