"""Explanations of a classifier: Grad-CAM, saliency, occlusion, windows of the image, channels of a layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from pydantic import Field

from models.classification.explain import occlusion
from models.classification.explain.drawing import drawn
from models.classification.explain.maps import (
    ActivationMap,
    Explanation,
    HeatMap,
    Layer,
    WindowMap,
    find_label,
)
from models.classification.result import ClassifyOptions
from models.errors import ParameterInvalid
from models.image import MAX_ENCODED_PIXELS, Image, decode, encode
from models.parameters import Parameters
from models.pipeline import Kind, Prepared
from service.engine.engine import Answer, Engine, together
from service.engine.installed import require_torch
from service.engine.offload import Call
from service.engine.runner import Runner
from service.errors import NotSupported
from service.request import RequestContext
from service.tasks.render import ImageFormat, Rendered
from service.tasks.task import AnswerModel, Encoded, ImageAnswer, Task
from service.telemetry.timing import Timing
from service.torch_process import ask

Box = tuple[float, float, float, float]
EXPLAINED_PIXELS = min(MAX_ENCODED_PIXELS.values())
"""Of the image that is explained and drawn on, whatever its format: the map itself has few cells."""

WINDOW: Final = 0.5
"""A window's side, of the image's shorter side, where a request does not say."""

SHEET_BYTES: Final = 16 * 1024 * 1024
"""Memory for the sheet of 64 channels, and its copies."""

HEADER: Final = "X-Explanation"
"""Of the answer: what is explained, as an item of RFC 9651 (structured field values)."""


class ExplainKind(StrEnum):
    """How a classifier is explained."""

    CAM = "cam"
    WINDOWS = "windows"
    ACTIVATIONS = "activations"
    SALIENCY = "saliency"
    OCCLUSION = "occlusion"


class ExplainParams(Parameters):
    model: str | None = Field(None, description="a served classifier; the default one if left out")
    label: str | None = Field(None, description="a label's name or index; default: the likeliest")
    kind: ExplainKind = Field(
        ExplainKind.CAM,
        description="Grad-CAM; the score in every window; the strongest channels of a layer; smoothed"
        " integrated gradients; or the loss where a square covers the image, which needs no gradients",
    )
    fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"`windows`: a window's side, of the image's shorter side ({WINDOW} if left out);"
        f" `occlusion`: a square's side, of the input's shorter side ({occlusion.FRACTION})",
    )
    score_threshold: float = Field(0.2, ge=0, le=1, description="`windows`: least score of a box")
    layer: str | None = Field(
        None,
        description="`activations`: a layer, as `/v1/models/{name}/layers` names it; default: the last one",
    )
    top: int = Field(16, ge=1, le=64, description="`activations`: how many channels")


class ExplanationAnswer(ImageAnswer):
    """Base of every explanation: which label it is for, and the label's score."""

    kind: ExplainKind
    index: int
    label: str
    score: float = Field(description="of the label, 0 to 1; of windows, in the likeliest")
    note: str | None = Field(
        None, exclude_if=lambda note: note is None, description="where nothing was found"
    )


class HeatAnswer(ExplanationAnswer):
    """Where the evidence for a label lies, 0 to 1, rows from the top of the region that the network saw."""

    region: Box = Field(description="x1, y1, x2, y2 in pixels")
    heat: list[list[float]]


class WindowAnswer(AnswerModel):
    """One window where the label is likely."""

    score: float
    box: Box


class WindowsAnswer(ExplanationAnswer):
    """A label's score in every window of the image."""

    window: tuple[float, float] = Field(description="width and height of a window in pixels")
    step: tuple[float, float] = Field(description="x and y distance of neighbouring windows in pixels")
    scores: list[list[float]] = Field(description="rows from the top; window (0, 0) begins at the corner")
    boxes: list[WindowAnswer]


class ActivationAnswer(AnswerModel):
    """What one channel of a layer answers to the image."""

    channel: int
    mean: float
    peak: float
    map: list[list[float]] = Field(
        description="rows from the top of the region, in the network's units; at most 32 x 32 cells"
    )


class ActivationsAnswer(ExplanationAnswer):
    """The strongest channels of a layer, by the mean of what is positive."""

    region: Box = Field(description="x1, y1, x2, y2 in pixels: what the network saw")
    layer: str
    channels: int = Field(description="of the layer")
    rows: int = Field(description="of a channel's map")
    columns: int
    activations: list[ActivationAnswer]


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation and the size of the image that it is of, upright, pixels."""

    width: int
    height: int
    map: Explanation


async def draw(
    engine: Engine, images: Encoded, params: ExplainParams, image_format: ImageFormat, context: RequestContext
) -> Answer[Rendered]:
    """The explanation as an image with a caption. Raises as `explain` does."""

    def render(image: Image, found: Explained, call: Call) -> Rendered:
        pixels = drawn(image, found.map)
        call.check()
        about = {"index": found.map.index, "label": found.map.label, "score": found.map.score}
        return Rendered(found.width, found.height, encode(pixels, image_format), about)

    return await explain(engine, images, params, context, render)


async def explain(
    engine: Engine,
    images: Encoded,
    params: ExplainParams,
    context: RequestContext,
    then: Callable[[Image, Explained, Call], Any] = lambda image, found, call: found,
) -> Answer[Any]:
    """An explanation, or what `then` makes of it in the same thread.

    Raises:
        ParameterInvalid: the model has no such label or layer, cannot be explained so, or the windows or
            squares are too many.
        NotSupported: torch is not installed, and it is not occlusion.
    """
    runner = engine.find(Kind.CLASSIFY, params.model)
    label = None if params.label is None else find_label(runner.card, params.label)
    if params.kind is ExplainKind.OCCLUSION:
        found = await _occluded(engine, runner, images["image"], params, label, context, then)
    else:
        require_torch("an explanation other than kind=occlusion")
        if not runner.pipeline.explainable:
            what = "is an exported graph, without layers and gradients: kind=occlusion explains it"
            raise ParameterInvalid("model", f"the model {runner.card.name!r} {what}")
        found = await _asked(engine, runner, images["image"], params, context, then)
    answer, about = found
    context.headers[HEADER] = _item(params.kind, about)
    return answer


async def _asked(
    engine: Engine,
    runner: Runner,
    data: bytes,
    params: ExplainParams,
    context: RequestContext,
    then: Callable[[Image, Explained, Call], Any],
) -> tuple[Answer[Any], Explanation]:
    """What torch explains."""

    what, parameters = _question(params)

    def work(call: Call) -> tuple[Answer[Any], Explanation]:
        began = time.perf_counter()
        image = decode(data, engine.limits, plan=plan)
        # what the classifier would be given, so that the score is its own
        seen = image if plan.result == own.result else decode(data, engine.limits, plan=own)
        decoded = time.perf_counter()
        call.check()
        of = image if params.kind is ExplainKind.WINDOWS else seen
        found = ask(engine, runner, what, call, of, params.label, **parameters)
        timing = Timing(decoded - began, 0.0, time.perf_counter() - decoded, 1)
        call.check()
        result = then(image, Explained(image.width, image.height, found), call)
        return Answer(runner.card.name, result, timing, image.frames), found

    with runner.admit():
        plan = own = await engine.plan(data, max_pixels=EXPLAINED_PIXELS)
        if params.kind is not ExplainKind.WINDOWS:
            own = await engine.plan(data, min_side=runner.pipeline.min_side)
        memory = max(plan.memory, own.memory + plan.result) + 3 * plan.result
        if params.kind is ExplainKind.ACTIVATIONS:
            memory += SHEET_BYTES
        return await engine.offload.run(work, context.deadline, memory=memory)


def _question(params: ExplainParams) -> tuple[str, dict[str, Any]]:
    """A method of the explainer, and its parameters besides image and label."""
    match params.kind:
        case ExplainKind.WINDOWS:
            fraction = WINDOW if params.fraction is None else params.fraction
            return "windows", {"fraction": fraction, "score_threshold": params.score_threshold}
        case ExplainKind.ACTIVATIONS:
            return "activations", {"layer": params.layer, "top": params.top}
        case ExplainKind.SALIENCY:
            return "saliency", {}
    return "heat_map", {}


async def _occluded(
    engine: Engine,
    runner: Runner,
    data: bytes,
    params: ExplainParams,
    label: int | None,
    context: RequestContext,
    then: Callable[[Image, Explained, Call], Any],
) -> tuple[Answer[Any], Explanation]:
    """Occlusion, by the served network itself: every covered input takes its place in a batch as an image.

    So other requests' images come in between, and after the deadline no more is computed.
    """
    pipeline, deadline = runner.pipeline, context.deadline
    height, width, _ = pipeline.shapes[0]
    fraction = occlusion.FRACTION if params.fraction is None else params.fraction
    squares = occlusion.squares(height, width, fraction)
    with runner.admit(deadline):
        plan = await engine.plan(data, max_pixels=EXPLAINED_PIXELS)
        own = await engine.plan(data, min_side=pipeline.min_side)

    def begin(call: Call) -> tuple[Image, Prepared, Box, float]:
        began = time.perf_counter()
        image = decode(data, engine.limits, plan=plan)
        call.check()
        seen = image if plan.result == own.result else decode(data, engine.limits, plan=own)
        prepared = pipeline.preprocess(seen, ClassifyOptions(top_k=1))
        return image, prepared, pipeline.region(seen), time.perf_counter() - began

    held = 4 * plan.result  # the image, and what drawing it takes
    memory = max(plan.memory, own.memory + plan.result) + 3 * plan.result
    image, prepared, region, took = await engine.offload.run(begin, deadline, memory=memory, keep=held)
    try:
        began = time.perf_counter()
        (pixels,) = prepared.inputs

        async def score(square: occlusion.Square | None) -> Any:
            def prepare() -> Prepared:
                inputs = pixels if square is None else occlusion.covered(pixels, square)
                return Prepared((inputs,), prepared.context)

            return (await engine.infer_prepared(runner, prepare, deadline)).result

        first = await score(None)
        index = first.labels[0].index if label is None else label
        before = float(first.scores[index])

        async def lost(square: occlusion.Square) -> float:
            return before - float((await score(square)).scores[index])

        every = await together([partial(lost, square) for square in squares], runner.window)

        def end(call: Call) -> tuple[Any, HeatMap]:
            grid = occlusion.losses(height, width, squares, every)
            name, size = runner.card.labels[index], (image.width, image.height)
            found = HeatMap(index, name, before, grid, region, *size, method="occlusion")
            return then(image, Explained(*size, found), call), found

        result, found = await engine.offload.run(end, deadline)
    finally:
        engine.memory.release(held)
    timing = Timing(took, 0.0, time.perf_counter() - began, 1)
    return Answer(runner.card.name, result, timing, image.frames), found


async def layers_of(engine: Engine, runner: Runner, deadline: float | None) -> Sequence[Layer]:
    """The layers of any served model that give feature maps, in the order in which they run.

    Raises:
        ParameterInvalid: it is an exported graph, which has none.
        NotSupported: torch is not installed.
        DeadlineExceeded: it was not done in time.
    """
    require_torch("a list of layers")
    found: Sequence[Layer] = await engine.offload.run(partial(ask, engine, runner, "layers"), deadline)
    return found


def _item(kind: ExplainKind, found: Explanation) -> str:
    """``cam;index=235;label="German shepherd";score=0.408``, as RFC 9651 writes items and parameters."""
    label = found.label
    if label.isascii() and label.isprintable():
        escaped = label.replace("\\", "\\\\").replace('"', '\\"')
        text = f'"{escaped}"'
    else:  # a display string
        plain = (
            chr(byte) if 32 <= byte < 127 and byte not in b'%"' else f"%{byte:02x}" for byte in label.encode()
        )
        text = f'%"{"".join(plain)}"'
    return f"{kind.value};index={found.index};label={text};score={found.score:.3f}"


def present(
    answer: Answer[Explained], params: ExplainParams
) -> HeatAnswer | WindowsAnswer | ActivationsAnswer:
    found = answer.result.map
    about: dict[str, Any] = {"kind": params.kind, "index": found.index, "label": found.label}
    about |= {"score": found.score, "note": found.note or None}
    match found:
        case HeatMap():
            return HeatAnswer.of(answer, region=found.region, heat=found.grid.tolist(), **about)
        case ActivationMap():
            activations = [
                {"channel": one.channel, "mean": one.mean, "peak": one.peak, "map": one.grid.tolist()}
                for one in found.strongest
            ]
            of_layer = {name: getattr(found, name) for name in ("layer", "channels", "rows", "columns")}
            return ActivationsAnswer.of(
                answer, region=found.region, activations=activations, **of_layer, **about
            )
        case WindowMap():
            scores = found.scores.tolist()
            boxes, window, step = found.boxes, found.window, found.step
            return WindowsAnswer.of(answer, window=window, step=step, scores=scores, boxes=boxes, **about)


EXPLAIN = Task(
    name="explain",
    path="classify/explain",
    method="Explain",
    summary="Why the classifier says so: `kind=cam` is Grad-CAM, `saliency` smoothed integrated gradients,"
    " `occlusion` what a covered place costs, `windows` the label's score in every window, `activations` the"
    " strongest channels of a layer. The answer is an image with a caption or, with"
    " `Accept: application/json`, the numbers.",
    params=ExplainParams,
    models={"model": Kind.CLASSIFY},
    answer=HeatAnswer | WindowsAnswer | ActivationsAnswer,
    example={
        "model": "efficientnet-lite0",
        "image": {"width": 768, "height": 576},
        "kind": "cam",
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
    gives={
        HEADER: (
            "kind, index, label and score of what is explained (RFC 9651)",
            "string",
            'cam;index=235;label="German shepherd";score=0.408',
        )
    },
    errors=(NotSupported,),
)
