"""Answers that are pictures, and what a classifier looks at: the slow and rare side of the data plane.

All of it runs in one thread of its own, one piece of work at a time, so that it never takes the place of a
batch; at most `WAITING` pieces wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from models.classification.explain import HeatMap, filter_sheet, grad_cam, overlay
from models.classification.pipeline import ClassifierPipeline
from models.classification.windows import WindowMap, windows
from models.detection.draw import draw_detections, draw_faces
from models.detection.result import Detections, DetectOptions
from models.errors import ModelUnknown, ParameterInvalid
from models.faces.result import FaceOptions
from models.image import Image, Limits, decode, encode
from models.pipeline import Task
from service.dataplane import Answer, DataPlane, Trace
from service.errors import DeadlineExceeded, Overloaded
from service.faces import FaceDesk

__all__ = ["HeatMap", "Image", "PictureDesk", "WindowMap"]

T = TypeVar("T")
Format = Literal["jpeg", "png", "webp"]
WAITING = 16


class PictureDesk:
    """Everything that is drawn."""

    def __init__(self, plane: DataPlane, faces: FaceDesk, limits: Limits) -> None:
        self._plane = plane
        self._faces = faces
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._waiting = 0

    async def detections(
        self,
        data: bytes,
        options: DetectOptions,
        kind: Format,
        *,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[bytes]:
        """The picture with its objects drawn in. Raises as `DataPlane.detect` does."""
        answer = await self._plane.detect(data, options, model=model, deadline=deadline)

        def draw() -> bytes:
            return encode(draw_detections(self._decode(data).pixels, answer.result), kind)

        return Answer(answer.model, await self.run(draw, deadline), answer.trace)

    async def faces(
        self,
        data: bytes,
        options: FaceOptions,
        kind: Format,
        *,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[bytes]:
        """The picture with its faces and their landmarks drawn in."""
        answer = await self._faces.detect(data, options, model=model, deadline=deadline)

        def draw() -> bytes:
            return encode(draw_faces(self._decode(data).pixels, answer.result), kind)

        return Answer(answer.model, await self.run(draw, deadline), answer.trace)

    async def heat(
        self,
        data: bytes,
        *,
        label: str | None = None,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[tuple[HeatMap, Image]]:
        """Grad-CAM of a label, or of the likeliest one, and the picture that was explained.

        Raises:
            ParameterInvalid: the model has no such label, or no convolutional map.
        """
        return await self._explained(
            data, lambda pipeline, image: grad_cam(pipeline, image, label), model, deadline
        )

    async def heat_picture(
        self, answer: Answer[tuple[HeatMap, Image]], kind: Format, deadline: float | None = None
    ) -> Answer[bytes]:
        """The picture with the map that `heat` gave laid over it."""
        heat, image = answer.result
        picture = await self.run(lambda: encode(overlay(image, heat), kind), deadline)
        return Answer(answer.model, picture, answer.trace)

    async def windows(
        self,
        data: bytes,
        *,
        label: str | None = None,
        fraction: float = 0.5,
        score_threshold: float = 0.2,
        model: str | None = None,
        deadline: float | None = None,
    ) -> Answer[tuple[WindowMap, Image]]:
        """A label's score in every window of the picture, in one pass; the likeliest label if none is named.

        Raises:
            ParameterInvalid: the model has no such label or cannot be slid, or the windows are too many.
        """

        def work(pipeline: ClassifierPipeline, image: Image) -> WindowMap:
            wanted = label if label is not None else str(grad_cam(pipeline, image).index)
            return windows(pipeline, image, wanted, fraction=fraction, score_threshold=score_threshold)

        return await self._explained(data, work, model, deadline)

    async def windows_picture(
        self, answer: Answer[tuple[WindowMap, Image]], kind: Format, deadline: float | None = None
    ) -> Answer[bytes]:
        """The picture with the windows that `windows` found drawn in."""
        found, image = answer.result
        drawn = Detections(image.width, image.height, found.boxes)
        picture = await self.run(lambda: encode(draw_detections(image.pixels, drawn), kind), deadline)
        return Answer(answer.model, picture, answer.trace)

    async def filters(self, model: str) -> bytes:
        """A PNG of the first layer's filters of any served model.

        Raises:
            ModelUnknown: it is not served.
            ParameterInvalid: it has no convolution.
        """
        runner = self._plane.runners.get(model)
        if runner is None:
            raise ModelUnknown(f"no model named {model!r} is served")
        module = runner.pipeline.module
        return await self.run(lambda: encode(filter_sheet(module), "png"), None)

    def close(self) -> None:
        """Takes no more work."""
        self._thread.shutdown(wait=False)

    async def _explained(
        self,
        data: bytes,
        explain: Callable[[ClassifierPipeline, Image], T],
        model: str | None,
        deadline: float | None,
    ) -> Answer[tuple[T, Image]]:
        runner = self._plane.runner(Task.CLASSIFY, model)

        def work() -> tuple[T, Image, Trace]:
            began = time.perf_counter()
            image = self._decode(data)
            decoded = time.perf_counter()
            if not isinstance(runner.pipeline, ClassifierPipeline):
                raise ParameterInvalid("model", f"the model {runner.card.name!r} cannot be explained")
            result = explain(runner.pipeline, image)
            return result, image, Trace(decoded - began, 0.0, time.perf_counter() - decoded, 1)

        result, image, trace = await self.run(work, deadline)
        return Answer(runner.card.name, (result, image), trace)

    def _decode(self, data: bytes) -> Image:
        return decode(data, self._limits)

    async def run(self, work: Callable[[], T], deadline: float | None) -> T:
        """Does a piece of work on pixels in the thread of this desk.

        Raises:
            Overloaded: too many pieces wait.
            DeadlineExceeded: it was not done in time.
        """
        if self._waiting >= WAITING:
            raise Overloaded("too many pictures are being drawn", 1.0)
        left = None if deadline is None else deadline - time.monotonic()
        self._waiting += 1
        try:
            async with asyncio.timeout(left):  # a piece that has not been begun is called off
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the picture was done") from None
        finally:
            self._waiting -= 1
