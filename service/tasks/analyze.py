"""Several tasks on one image, which is decoded once: a part of the answer for each task, or its problem."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from models.detection.result import names
from models.errors import ModelUnknown, ParameterInvalid, echoed
from models.parameters import Parameters
from service.engine.engine import Answer, Engine, KeptImage, outcome, together
from service.errors import Problem
from service.request import RequestContext
from service.tasks.classify import CLASSIFY, ClassifyParams
from service.tasks.detect import DETECT, DetectParams
from service.tasks.embed import EMBED, EmbedParams
from service.tasks.faces.detect import FACES_DETECT, FacesDetectParams
from service.tasks.faces.embed import FACES_EMBED, FacesEmbedParams
from service.tasks.faces.find import min_side
from service.tasks.faces.shared import CHIP_SIDE
from service.tasks.task import AnswerModel, Encoded, Size, Task
from service.telemetry.timing import Timing

PARTS: Mapping[str, Task[Any, Any]] = {
    task.name: task for task in (CLASSIFY, EMBED, DETECT, FACES_DETECT, FACES_EMBED)
}
"""What an image can be analyzed for, by the names that `tasks` takes."""


class AnalyzeParams(Parameters):
    tasks: Annotated[tuple[str, ...], BeforeValidator(names)] = Field(
        ("classify", "detect", "faces_embed"),
        description=f"names separated by commas, of {', '.join(PARTS)}",
        json_schema_extra={"type": "string"},
    )
    classify: ClassifyParams = ClassifyParams()
    embed: EmbedParams = EmbedParams()
    detect: DetectParams = DetectParams()
    faces_detect: FacesDetectParams = FacesDetectParams()
    faces_embed: FacesEmbedParams = FacesEmbedParams()


class AnalyzeAnswer(AnswerModel):
    """The answers of the tasks by name; in place of one that failed `{"problem": {...}}`."""

    image: Size
    results: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Analyzed:
    """The parts by task: answers, or why there is none; and the size of the upright original, pixels."""

    width: int
    height: int
    parts: Mapping[str, Answer[Any] | Problem]


async def run(
    engine: Engine, images: Encoded, params: AnalyzeParams, context: RequestContext
) -> Answer[Analyzed]:
    """
    Raises:
        ParameterInvalid: a task that there is not, or none.
    """
    wanted = list(dict.fromkeys(params.tasks))
    for name in wanted:
        if name not in PARTS:
            known = ", ".join(PARTS)
            raise ParameterInvalid("tasks", f"there is no task {echoed(name)} here; there are: {known}")
    sides = [
        side for name in wanted for side in await _min_sides(engine, images, name, getattr(params, name))
    ]
    side = None if None in sides else max(filter(None, sides), default=1)
    with KeptImage(engine.memory, min_side=side) as kept:
        decoding = await engine.decode(images["image"], kept, context.deadline)
        calls = []
        for name in wanted:
            work = PARTS[name].run
            assert work is not None  # noqa: S101 (each of them has one)
            calls.append(partial(work, engine, {"image": kept}, getattr(params, name), context))
        found = await together([partial(outcome, call) for call in calls], len(calls))
        width, height, frames = kept.image.width, kept.image.height, kept.image.frames
    parts = {
        name: one if isinstance(one, Answer) else context.problem_of(one, f": {name}")
        for name, one in zip(wanted, found, strict=True)
    }
    timings = [one.timing for one in found if isinstance(one, Answer)]
    return Answer(
        "",
        Analyzed(width, height, parts),
        decoding + (Timing.slowest(timings) if timings else Timing()),
        frames,
    )


async def _min_sides(engine: Engine, images: Encoded, name: str, params: Any) -> list[int | None]:
    """How far a part and its models allow the image to be reduced: shortest side in pixels; None: not."""
    sides: list[int | None] = [CHIP_SIDE] if name == FACES_EMBED.name else []
    for parameter, kind in PARTS[name].models.items():
        with contextlib.suppress(ModelUnknown):  # the part's own problem
            sides.append(engine.find(kind, getattr(params, parameter)).pipeline.min_side)
    if name in (FACES_DETECT.name, FACES_EMBED.name):
        sides.append(await min_side(engine, images["image"], params))
    return sides


def present(answer: Answer[Analyzed], params: AnalyzeParams) -> AnalyzeAnswer:
    result = answer.result
    results: dict[str, Any] = {}
    for name, part in result.parts.items():
        if isinstance(part, Problem):
            results[name] = {"problem": part.body()}
        else:
            results[name] = PARTS[name].presented(part, getattr(params, name))
    return AnalyzeAnswer(image=Size.of(answer), results=results)


def reply(answer: Answer[Analyzed], params: AnalyzeParams) -> Mapping[str, Any]:
    """The gRPC reply has a field for each task, and the problems side by side."""
    result = answer.result
    fields: dict[str, Any] = {"image": Size.of(answer), "problems": []}
    for name, part in result.parts.items():
        if isinstance(part, Problem):
            problem = {"code": part.kind.code, "detail": part.detail, "parameter": part.parameter}
            fields["problems"].append({"task": name, "problem": problem})
            continue
        show = PARTS[name].reply or PARTS[name].presented
        fields[name] = show(part, getattr(params, name))
    return fields


ANALYZE = Task(
    name="analyze",
    path="analyze",
    method="Analyze",
    summary="Several tasks on one image, or on several images in order, each decoded once. Parameters of a "
    "task stand behind its name: `detect.score_threshold=`.",
    params=AnalyzeParams,
    models={},
    answer=AnalyzeAnswer,
    example={
        "image": CLASSIFY.example["image"],
        "results": {"classify": CLASSIFY.example, "detect": DETECT.example},
    },
    run=run,
    present=present,
    reply=reply,
)
