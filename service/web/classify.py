"""`/v1/classify` and its explanations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from models.classification.result import Classification, ClassifyOptions
from models.errors import ParameterInvalid
from models.pipeline import Task
from service.dataplane import Answer, each
from service.web.answers import answers, json_answer, picture_answer, wanted_picture
from service.web.call import call_of, while_connected
from service.web.house import Home
from service.web.intake import NEEDS_BODY
from service.web.schemas import ClassifyOut, HeatOut, LabelOut, Size

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
    call_of(request).task = Task.CLASSIFY
    deadline = house.deadline(request)
    images = (await house.images(request, "image"))["image"]
    options = ClassifyOptions(top_k=top_k)
    async with while_connected(request):
        results = await each(
            [house.plane.classify(image, options, model=model, deadline=deadline) for image in images]
        )
    return answers(request, results, _shape)


@router.post("/classify/explain", response_model=HeatOut, openapi_extra=NEEDS_BODY)
async def explain(
    request: Request,
    house: Home,
    model: Model = None,
    label: Annotated[
        str | None, Query(description="a label's name or index; the likeliest if left out")
    ] = None,
) -> Response:
    """Where the classifier looked (Grad-CAM): the picture with the heat over it, or, with
    `Accept: application/json`, the heat as numbers on the network's own grid."""
    call_of(request).task = "explain"
    deadline = house.deadline(request)
    images = (await house.images(request, "image"))["image"]
    if len(images) > 1:
        raise ParameterInvalid("image", f"{len(images)} images; send one to be explained")
    kind = wanted_picture(request, by_default="jpeg")
    async with while_connected(request):
        if kind is not None:
            picture = await house.pictures.heat_picture(
                images[0], kind, label=label, model=model, deadline=deadline
            )
            call_of(request).trace = picture.trace
            return picture_answer(picture.result, kind)
        answer = await house.pictures.heat(images[0], label=label, model=model, deadline=deadline)
    call_of(request).trace = answer.trace
    heat, image = answer.result
    return json_answer(
        HeatOut(
            model=answer.model,
            image=Size(width=image.width, height=image.height),
            index=heat.index,
            label=heat.label,
            score=heat.score,
            region=heat.region,
            heat=heat.grid.tolist(),
        )
    )


def _shape(answer: Answer[Classification]) -> ClassifyOut:
    result = answer.result
    return ClassifyOut(
        model=answer.model,
        image=Size(width=result.width, height=result.height),
        labels=[LabelOut(index=label.index, label=label.label, score=label.score) for label in result.labels],
    )
