"""`/v1/classify` and its explanations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from models.classification.result import Classification, ClassifyOptions
from models.pipeline import Pipeline, Task
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


def _shape(answer: Answer[Classification]) -> ClassifyOut:
    result = answer.result
    return ClassifyOut(
        model=answer.model,
        image=Size(width=result.width, height=result.height),
        labels=[LabelOut(index=label.index, label=label.label, score=label.score) for label in result.labels],
    )
