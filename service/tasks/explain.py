"""Explanations of a classifier: Grad-CAM, or a label's score in every window of the image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from models.classification.maps import HeatMap, WindowMap, overlay
from models.detection.draw import draw_detections
from models.detection.result import Detections
from models.errors import ParameterInvalid
from models.image import MAX_ENCODED_PIXELS, Image, Pixels, decode, encode
from models.parameters import Parameters
from models.pipeline import Kind
from service.engine.engine import Answer, Engine
from service.engine.installed import require_torch
from service.engine.offload import Call
from service.errors import NotSupported
from service.request import RequestContext
from service.tasks.render import ImageFormat, Rendered
from service.tasks.task import AnswerModel, Encoded, ImageAnswer, Task
from service.telemetry.timing import Timing

Box = tuple[float, float, float, float]
EXPLAINED_PIXELS = min(MAX_ENCODED_PIXELS.values())
"""Of the image that is explained and drawn on, whatever its format: the map itself has few cells."""


class ExplainKind(StrEnum):
    """How a classifier is explained: Grad-CAM, or its score in every window of the image."""

    CAM = "cam"
    WINDOWS = "windows"


class ExplainParams(Parameters):
    model: str | None = Field(None, description="a served classifier; the default one if left out")
    label: str | None = Field(None, description="a label's name or index; default: the likeliest")
    kind: ExplainKind = Field(ExplainKind.CAM, description="Grad-CAM, or the score in every window")
    fraction: float = Field(0.5, gt=0, le=1, description="a window's side, of the shorter side")
    score_threshold: float = Field(0.2, ge=0, le=1, description="least score of a box")


class HeatAnswer(ImageAnswer):
    """Where a classifier looked: Grad-CAM, 0 to 1, rows from the top of the region that the network saw."""

    index: int
    label: str
    score: float
    region: Box = Field(description="x1, y1, x2, y2 in pixels")
    heat: list[list[float]]


class WindowAnswer(AnswerModel):
    """One window where the label is likely."""

    score: float
    box: Box


class WindowsAnswer(ImageAnswer):
    """A label's score in every window of the image."""

    index: int
    label: str
    window: tuple[float, float] = Field(description="width and height of a window in pixels")
    step: tuple[float, float] = Field(description="x and y distance of neighbouring windows in pixels")
    scores: list[list[float]] = Field(description="rows from the top; window (0, 0) begins at the corner")
    boxes: list[WindowAnswer]


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation and the size of the image that it is of, upright, pixels."""

    width: int
    height: int
    map: HeatMap | WindowMap


async def draw(
    engine: Engine, images: Encoded, params: ExplainParams, image_format: ImageFormat, context: RequestContext
) -> Answer[Rendered]:
    """The image with the heat laid over it, or with the windows drawn in. Raises as `explain` does."""

    def render(image: Image, found: Explained, call: Call) -> Rendered:
        pixels = _overlaid(image, found.map)
        call.check()
        return Rendered(found.width, found.height, encode(pixels, image_format))

    return await explain(engine, images, params, context, render)


def _overlaid(image: Image, found: HeatMap | WindowMap) -> Pixels:
    if isinstance(found, HeatMap):
        return overlay(image, found)
    return draw_detections(image.pixels, Detections(image.width, image.height, found.boxes))


async def explain(
    engine: Engine,
    images: Encoded,
    params: ExplainParams,
    context: RequestContext,
    then: Callable[[Image, Explained, Call], Any] = lambda image, found, call: found,
) -> Answer[Any]:
    """An explanation, or what `then` makes of it in the same thread.

    Raises:
        ParameterInvalid: the model has no such label, cannot be explained so, or the windows are too many.
        NotSupported: torch is not installed.
    """
    require_torch("an explanation")
    runner = engine.find(Kind.CLASSIFY, params.model)
    if not runner.pipeline.explainable:
        raise ParameterInvalid("model", f"the model {runner.card.name!r} cannot be explained")

    def ask(what: str, call: Call, *arguments: Any, **named: Any) -> Any:
        if engine.torch_process is not None:
            return engine.torch_process.ask(runner.card.name, what, call, *arguments, **named)
        return getattr(runner.pipeline.explainer, what)(*arguments, **named)

    def work(call: Call) -> Answer[Any]:
        began = time.perf_counter()
        image = decode(images["image"], engine.limits, plan=plan)
        # what the classifier would be given, so that the score is its own
        seen = image if plan.result == own.result else decode(images["image"], engine.limits, plan=own)
        decoded = time.perf_counter()
        call.check()
        found: HeatMap | WindowMap
        if params.kind is ExplainKind.CAM:
            found = ask("heat_map", call, seen, params.label)
        else:
            chosen = {"fraction": params.fraction, "score_threshold": params.score_threshold}
            found = ask("windows", call, image, params.label, **chosen)
        timing = Timing(decoded - began, 0.0, time.perf_counter() - decoded, 1)
        call.check()
        result = then(image, Explained(image.width, image.height, found), call)
        return Answer(runner.card.name, result, timing, image.frames)

    with runner.admit():
        plan = own = await engine.plan(images["image"], max_pixels=EXPLAINED_PIXELS)
        if params.kind is ExplainKind.CAM:
            own = await engine.plan(images["image"], min_side=runner.pipeline.min_side)
        memory = max(plan.memory, own.memory + plan.result) + 3 * plan.result
        return await engine.offload.run(work, context.deadline, memory=memory)


def present(answer: Answer[Explained], params: ExplainParams) -> HeatAnswer | WindowsAnswer:
    found = answer.result.map
    label: dict[str, Any] = {"index": found.index, "label": found.label}
    if isinstance(found, HeatMap):
        heat = found.grid.tolist()
        return HeatAnswer.of(answer, score=found.score, region=found.region, heat=heat, **label)
    scores = found.scores.tolist()
    boxes, window, step = found.boxes, found.window, found.step
    return WindowsAnswer.of(answer, window=window, step=step, scores=scores, boxes=boxes, **label)


EXPLAIN = Task(
    name="explain",
    path="classify/explain",
    method="Explain",
    summary="Where the classifier looked: `kind=cam` is Grad-CAM, `kind=windows` the label's score in "
    "every window. The answer is the image with the heat or the boxes drawn in or, with "
    "`Accept: application/json`, the numbers.",
    params=ExplainParams,
    models={"model": Kind.CLASSIFY},
    answer=HeatAnswer | WindowsAnswer,
    example={
        "model": "efficientnet-lite0",
        "image": {"width": 768, "height": 576},
        "index": 235,
        "label": "German shepherd",
        "score": 0.4078,
        "region": [132.0, 36.0, 636.0, 540.0],
        "heat": [[0.0, 0.12, 0.31], [0.05, 0.84, 1.0], [0.0, 0.4, 0.52]],
    },
    several=False,
    run=explain,
    present=present,
    draw=draw,
    image_first=True,
    errors=(NotSupported,),
)
