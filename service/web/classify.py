"""`/v1/classify` and its explanations."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from models.classification.result import Classification, ClassifyOptions
from models.errors import ParameterInvalid
from models.pipeline import Task
from service.dataplane import Answer, each
from service.pictures import Explained, HeatMap, WindowMap
from service.web.answers import answers, json_answer, picture_answer, wanted_picture
from service.web.call import begin, while_connected
from service.web.house import Home
from service.web.intake import NEEDS_BODY
from service.web.schemas import ClassifyOut, HeatOut, LabelOut, Size, WindowOut, WindowsOut

router = APIRouter(prefix="/v1", tags=["classify"])
Model = Annotated[str | None, Query(description="a served model; the task's default if left out")]


@router.post("/classify", response_model=ClassifyOut, openapi_extra=NEEDS_BODY)
async def classify(
    request: Request,
    house: Home,
    model: Model = None,
    top_k: Annotated[int, Query(ge=1, description="how many labels")] = 5,
) -> Response:
    """Labels of one image, or of several in order."""
    begin(request)
    deadline = house.deadline(request)
    images = (await house.images(request, "image"))["image"]
    options = ClassifyOptions(top_k=top_k)
    async with while_connected(request):
        results = await each(
            [
                partial(house.plane.classify, image, options, model=model, deadline=deadline)
                for image in images
            ],
            house.plane.runner(Task.CLASSIFY, model).window,
        )
    return answers(request, results, _shape)


class Kind(StrEnum):
    """How a classifier is explained: Grad-CAM, or its score in every window of the picture."""

    CAM = "cam"
    WINDOWS = "windows"


@router.post("/classify/explain", response_model=HeatOut | WindowsOut, openapi_extra=NEEDS_BODY)
async def explain(
    request: Request,
    house: Home,
    model: Model = None,
    label: Annotated[str | None, Query(description="a label's name or index; default: the likeliest")] = None,
    kind: Annotated[Kind, Query(description="Grad-CAM, or the score in every window")] = Kind.CAM,
    fraction: Annotated[float, Query(gt=0, le=1, description="a window's side, of the shorter side")] = 0.5,
    score_threshold: Annotated[float, Query(ge=0, le=1, description="least score of a box")] = 0.2,
) -> Response:
    """Where the classifier looked: `kind=cam` is Grad-CAM, `kind=windows` the label's score in every window.

    The answer is the picture with the heat or the boxes drawn in or, with `Accept: application/json`, the
    numbers."""
    call = begin(request)
    deadline = house.deadline(request)
    images = (await house.images(request, "image"))["image"]
    if len(images) > 1:
        raise ParameterInvalid("image", f"{len(images)} images; send one to be explained")
    picture = wanted_picture(request, by_default="jpeg")
    desk = house.pictures
    async with while_connected(request):
        answer: Answer[Explained[HeatMap] | bytes] | Answer[Explained[WindowMap] | bytes]
        if kind is Kind.CAM:
            answer = await desk.heat(images[0], picture, label=label, model=model, deadline=deadline)
        else:
            answer = await desk.windows(
                images[0],
                picture,
                label=label,
                fraction=fraction,
                score_threshold=score_threshold,
                model=model,
                deadline=deadline,
            )
    call.trace = answer.trace
    if isinstance(answer.result, bytes):
        return picture_answer(answer.result, picture or "jpeg")
    size = Size(width=answer.result.width, height=answer.result.height)
    match answer.result.result:
        case HeatMap() as heat:
            return json_answer(_heat(answer.model, size, heat))
        case found:
            return json_answer(_windows(answer.model, size, found))


def _heat(model: str, size: Size, heat: HeatMap) -> HeatOut:
    return HeatOut(
        model=model,
        image=size,
        index=heat.index,
        label=heat.label,
        score=heat.score,
        region=heat.region,
        heat=heat.grid.tolist(),
    )


def _windows(model: str, size: Size, found: WindowMap) -> WindowsOut:
    return WindowsOut(
        model=model,
        image=size,
        index=found.index,
        label=found.label,
        window=found.window,
        step=found.step,
        scores=found.scores.tolist(),
        boxes=[WindowOut(score=item.score, box=item.box) for item in found.boxes],
    )


def _shape(answer: Answer[Classification]) -> ClassifyOut:
    result = answer.result
    return ClassifyOut(
        model=answer.model,
        image=Size(width=result.width, height=result.height),
        labels=[LabelOut(index=label.index, label=label.label, score=label.score) for label in result.labels],
    )
