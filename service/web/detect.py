"""`/v1/detect`: objects as JSON, or drawn into the picture."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from models.detection.result import Detections, DetectOptions
from models.pipeline import Task
from service.dataplane import Answer, each
from service.web.answers import answers, picture_answer, wanted_picture
from service.web.call import begin, while_connected
from service.web.house import Home
from service.web.intake import NEEDS_BODY
from service.web.schemas import DetectionOut, DetectOut, Size

router = APIRouter(prefix="/v1", tags=["detect"])
Box = tuple[float, float, float, float]


class BoxFormat(StrEnum):
    """How a box is written: corners, corner and size, or centre and size."""

    XYXY = "xyxy"
    XYWH = "xywh"
    CXCYWH = "cxcywh"


Score = Annotated[
    float | None, Query(ge=0, le=1, description="least score of a detection; the model's own if left out")
]
Overlap = Annotated[
    float | None,
    Query(ge=0, le=1, description="largest IoU of two boxes of a class; the model's own if left out"),
]


@router.post("/detect", response_model=DetectOut, openapi_extra=NEEDS_BODY)
async def detect(
    request: Request,
    house: Home,
    model: Annotated[str | None, Query(description="a served detector; the default one if left out")] = None,
    score_threshold: Score = None,
    iou_threshold: Overlap = None,
    max_detections: Annotated[int, Query(ge=1, le=1000, description="the surest so many")] = 100,
    classes: Annotated[str | None, Query(description="names of wanted classes, separated by commas")] = None,
    box_format: Annotated[BoxFormat, Query(description="how a box is written")] = BoxFormat.XYXY,
    normalized: Annotated[bool, Query(description="boxes as shares of the image's size")] = False,
) -> Response:
    """Objects of one image, or of several in order; `Accept: image/*` asks for the annotated picture."""
    call = begin(request)
    deadline = house.deadline(request)
    images = (await house.images(request, "image"))["image"]
    wanted = None if classes is None else tuple(name.strip() for name in classes.split(","))
    options = DetectOptions(score_threshold, iou_threshold, max_detections, wanted)
    kind = wanted_picture(request)
    async with while_connected(request):
        if kind is not None and len(images) == 1:
            picture = await house.pictures.detections(
                images[0], options, kind, model=model, deadline=deadline
            )
            call.trace = picture.trace
            return picture_answer(picture.result, kind)
        results = await each(
            [partial(house.plane.detect, image, options, model=model, deadline=deadline) for image in images],
            house.plane.runner(Task.DETECT, model).window,
        )

    def shape(answer: Answer[Detections]) -> DetectOut:
        result = answer.result
        scale = (result.width, result.height) if normalized else (1, 1)
        return DetectOut(
            model=answer.model,
            image=Size(width=result.width, height=result.height),
            detections=[
                DetectionOut(
                    class_id=item.class_id,
                    label=item.label,
                    score=item.score,
                    box=_box(item.box, box_format, scale),
                )
                for item in result.items
            ],
        )

    return answers(request, results, shape)


def _box(box: Box, form: BoxFormat, scale: tuple[int, int]) -> Box:
    x1, y1, x2, y2 = box[0] / scale[0], box[1] / scale[1], box[2] / scale[0], box[3] / scale[1]
    if form is BoxFormat.XYWH:
        return x1, y1, x2 - x1, y2 - y1
    if form is BoxFormat.CXCYWH:
        return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    return x1, y1, x2, y2
