"""Objects of an image: boxes, or the image with them drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from pydantic import Field

from models.detection.draw import draw_detections
from models.detection.result import Detections, DetectOptions
from models.pipeline import Card, Kind
from service.engine.engine import Answer
from service.tasks.render import drawing
from service.tasks.task import (
    AnswerModel,
    Arrays,
    ImageAnswer,
    Task,
    Tensors,
    TensorSpec,
    counts,
    one_inference,
    padded,
    table,
)

Box = tuple[float, float, float, float]


class BoxFormat(StrEnum):
    """How a box is written: corners, corner and size, or centre and size."""

    XYXY = "xyxy"
    XYWH = "xywh"
    CXCYWH = "cxcywh"


class DetectParams(DetectOptions):
    model: str | None = Field(None, description="a served detector; the default one if left out")
    box_format: BoxFormat = Field(BoxFormat.XYXY, description="how a box is written")
    normalized: bool = Field(False, description="boxes as shares of the image's size")


class DetectionAnswer(AnswerModel):
    """One object of a detector."""

    class_id: int
    label: str
    score: float
    box: Box = Field(description="in the format asked for; pixels unless normalized")


class DetectAnswer(ImageAnswer):
    """Objects of one image, the surest first."""

    detections: list[DetectionAnswer]


def present(answer: Answer[Detections], params: DetectParams) -> DetectAnswer:
    items = answer.result.items
    boxes = written([item.box for item in items], answer.result, params)
    detections = [
        DetectionAnswer(class_id=item.class_id, label=item.label, score=item.score, box=box)
        for item, box in zip(items, boxes, strict=True)
    ]
    return DetectAnswer.of(answer, detections=detections)


def written(boxes: Sequence[Box], result: Detections, params: DetectParams) -> list[Box]:
    """xyxy in pixels -> as `box_format` and `normalized` ask for."""
    width, height = (result.width, result.height) if params.normalized else (1, 1)
    found: list[Box] = []
    for left, top, right, bottom in boxes:
        x1, y1, x2, y2 = left / width, top / height, right / width, bottom / height
        match params.box_format:
            case BoxFormat.XYXY:
                found.append((x1, y1, x2, y2))
            case BoxFormat.XYWH:
                found.append((x1, y1, x2 - x1, y2 - y1))
            case BoxFormat.CXCYWH:
                found.append(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))
    return found


def outputs(card: Card) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("boxes", "FP32", (-1, 4)),
        TensorSpec("scores", "FP32", (-1,)),
        TensorSpec("class_ids", "INT64", (-1,)),
        TensorSpec("counts", "INT64", ()),
    )


def collect(card: Card, results: Sequence[Detections], params: DetectParams) -> Arrays:
    """boxes FP32 [N, K, 4], scores FP32 [N, K], class_ids INT64 [N, K], counts INT64 [N].

    K is that of the image with the most. Beyond an image's own count boxes and scores are 0, classes -1.
    """
    several = [result.items for result in results]
    boxes = [written([item.box for item in result.items], result, params) for result in results]
    return {
        "boxes": padded([table(rows, 4) for rows in boxes]),
        "scores": padded([table([item.score for item in items]) for items in several]),
        "class_ids": padded([np.array([item.class_id for item in items], np.int64) for items in several], -1),
        "counts": counts(several),
    }


DETECT = Task(
    name="detect",
    path="detect",
    method="Detect",
    summary="Objects of one image, or of several in order; `Accept: image/*` asks for the annotated image.",
    params=DetectParams,
    models={"model": Kind.DETECT},
    answer=DetectAnswer,
    example={
        "model": "efficientdet-lite0",
        "image": {"width": 768, "height": 576},
        "detections": [
            {"class_id": 1, "label": "bicycle", "score": 0.752, "box": [105.38, 127.39, 565.94, 429.07]},
            {"class_id": 16, "label": "dog", "score": 0.7494, "box": [129.77, 220.94, 315.9, 543.89]},
        ],
    },
    run=one_inference(Kind.DETECT),
    present=present,
    draw=drawing(Kind.DETECT, draw_detections),
    tensors=Tensors(outputs, collect),
    stream=True,
)
