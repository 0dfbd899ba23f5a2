"""Answers that are images, and what a classifier looks at: the slow and rare side of the data plane.

All of it runs in the threads for long work (`service.offload`), so that it never takes the place of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from models.classification.explain import HeatMap, filter_sheet, grad_cam, overlay
from models.classification.pipeline import ClassifierPipeline
from models.classification.windows import WindowMap, windows
from models.detection.draw import draw_detections, draw_faces
from models.detection.result import Detections, DetectOptions
from models.errors import ModelUnknown, ParameterInvalid, echoed
from models.faces.result import FaceOptions
from models.image import MAX_ENCODED_PIXELS, DecodePlan, Image, Pixels, decode, encode
from models.pipeline import Task
from service.dataplane import Answer, DataPlane, Trace
from service.offload import Call
from service.runner import Runner

__all__ = ["Explained", "HeatMap", "PictureDesk", "WindowMap"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Format = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True, slots=True)
class Explained(Generic[T_co]):
    """What a classifier looks at in an image.

    Attributes:
        width, height: of the upright original, pixels.
        result: the map.
    """

    width: int
    height: int
    result: T_co


class PictureDesk:
    """Everything that is drawn."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def detections(
        self,
        data: bytes,
        options: DetectOptions,
        kind: Format,
        *,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[bytes]:
        """The image with its objects drawn in. Raises as `DataPlane.detect` does."""
        runner = self._plane.runner(Task.DETECT, model)
        return await self._drawn(runner, data, options, draw_detections, kind, deadline)

    async def faces(
        self,
        data: bytes,
        options: FaceOptions,
        kind: Format,
        *,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[bytes]:
        """The image with its faces and their landmarks drawn in."""
        runner = self._plane.runner(Task.FACES, model)
        return await self._drawn(runner, data, options, draw_faces, kind, deadline)

    async def heat(
        self,
        data: bytes,
        kind: Format | None = None,
        *,
        label: str | None = None,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[Explained[HeatMap] | bytes]:
        """Grad-CAM of a label, or of the likeliest one: the map, or the image with the map laid over it.

        Raises:
            ParameterInvalid: the model has no such label, or no convolutional map.
        """
        return await self._explained(
            data, kind, lambda pipeline, image: grad_cam(pipeline, image, label), overlay, model, deadline
        )

    async def windows(
        self,
        data: bytes,
        kind: Format | None = None,
        *,
        label: str | None = None,
        fraction: float = 0.5,
        score_threshold: float = 0.2,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[Explained[WindowMap] | bytes]:
        """A label's score in every window of the image, in one pass; the likeliest label if none is named.

        Raises:
            ParameterInvalid: the model has no such label or cannot be slid, or the windows are too many.
        """

        def work(pipeline: ClassifierPipeline, image: Image) -> WindowMap:
            wanted = label if label is not None else str(grad_cam(pipeline, image).index)
            return windows(pipeline, image, wanted, fraction=fraction, score_threshold=score_threshold)

        def draw(image: Image, found: WindowMap) -> Pixels:
            return draw_detections(image.pixels, Detections(image.width, image.height, found.boxes))

        return await self._explained(data, kind, work, draw, model, deadline)

    async def filters(self, model: str) -> bytes:
        """A PNG of the first layer's filters of any served model.

        Raises:
            ModelUnknown: it is not served.
            ParameterInvalid: it has no convolution.
        """
        runner = self._plane.runners.get(model)
        if runner is None:
            raise ModelUnknown(f"no model named {echoed(model)} is served")
        module = runner.pipeline.module
        return await self._plane.offload.run(lambda _: encode(filter_sheet(module), "png"))

    async def _drawn(
        self,
        runner: Runner,
        data: bytes,
        options: object,
        draw: Callable[[Pixels, T], Pixels],
        kind: Format,
        deadline: float | None,
    ) -> Answer[bytes]:
        """A result drawn into its image. An image that takes long to decode is decoded once for both."""
        plane, most = self._plane, MAX_ENCODED_PIXELS[kind]
        with runner.admit():
            plan = await plane.plan(data, max_pixels=most)
        with plane.kept(max_pixels=most) as kept:
            answer = await plane.infer(runner, data, options, deadline, keep=kept if plan.large else None)

            def work(call: Call) -> bytes:
                image = kept.image if plan.large else self._decode(data, plan, most)
                call.check()
                pixels = draw(image.pixels, answer.result)
                call.check()
                return encode(pixels, kind)

            memory = 2 * plan.result + (0 if plan.large else plan.memory)
            picture = await plane.offload.run(work, deadline, memory=memory)
        return Answer(answer.model, picture, answer.trace)

    async def _explained(
        self,
        data: bytes,
        kind: Format | None,
        explain: Callable[[ClassifierPipeline, Image], T],
        draw: Callable[[Image, T], Pixels],
        model: str | None,
        deadline: float | None,
    ) -> Answer[Explained[T] | bytes]:
        runner = self._plane.runner(Task.CLASSIFY, model)
        most = MAX_ENCODED_PIXELS[kind or "jpeg"]
        with runner.admit():
            plan = await self._plane.plan(data, max_pixels=most)

        def work(call: Call) -> Answer[Explained[T] | bytes]:
            began = time.perf_counter()
            image = self._decode(data, plan, most)
            call.check()
            decoded = time.perf_counter()
            if not isinstance(runner.pipeline, ClassifierPipeline):
                raise ParameterInvalid("model", f"the model {runner.card.name!r} cannot be explained")
            result = explain(runner.pipeline, image)
            trace = Trace(decoded - began, 0.0, time.perf_counter() - decoded, 1)
            call.check()
            if kind is None:
                return Answer(runner.card.name, Explained(image.width, image.height, result), trace)
            pixels = draw(image, result)
            call.check()
            return Answer(runner.card.name, encode(pixels, kind), trace)

        return await self._plane.offload.run(work, deadline, memory=plan.memory + 3 * plan.result)

    def _decode(self, data: bytes, plan: DecodePlan, most: int) -> Image:
        return decode(data, self._plane.limits, max_pixels=most, plan=plan)
