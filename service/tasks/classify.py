"""Labels of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from models.classification.result import Classification, ClassifyOptions
from models.pipeline import Card, Kind
from service.engine.engine import Answer
from service.tasks.task import (
    AnswerModel,
    Arrays,
    Document,
    ImageAnswer,
    Size,
    Task,
    Tensors,
    TensorSpec,
    one_inference,
)


class ClassifyParams(ClassifyOptions):
    model: str | None = Field(None, description="a served classifier; the default one if left out")


class LabelAnswer(AnswerModel):
    """One label of a classifier."""

    index: int
    label: str
    score: float = Field(description="probability, 0 to 1")


class ClassifyAnswer(ImageAnswer):
    """Labels of one image, the likeliest first."""

    labels: list[LabelAnswer]


def present(answer: Answer[Classification], params: ClassifyParams) -> Document:
    """As `ClassifyAnswer` has it; to make one takes thrice the time, a tenth of all that a request takes."""
    labels = [{"index": one.index, "label": one.label, "score": one.score} for one in answer.result.labels]
    return {"model": answer.model, "image": Size.document(answer), "labels": labels}


def reply(answer: Answer[Classification], params: ClassifyParams) -> Document:
    size = {"width": answer.result.width, "height": answer.result.height, "frames": answer.frames}
    return {"model": answer.model, "image": size, "labels": answer.result.labels}


def outputs(card: Card) -> tuple[TensorSpec, ...]:
    scores = TensorSpec("scores", "FP32", (len(card.labels),), card.labels)
    return (
        (scores,)
        if card.features is None
        else (scores, TensorSpec("embedding", "FP32", (card.features,), asked=True))
    )


def collect(card: Card, results: Sequence[Classification], params: ClassifyParams) -> Arrays:
    """scores FP32 [N, C], the probability of every class; embedding FP32 [N, D], each row of length 1."""
    found = {"scores": np.stack([result.scores for result in results])}
    if card.features is not None:
        found["embedding"] = np.stack([result.embedding for result in results])
    return found


CLASSIFY = Task(
    name="classify",
    path="classify",
    method="Classify",
    summary="Labels of one image, or of several in order.",
    params=ClassifyParams,
    models={"model": Kind.CLASSIFY},
    answer=ClassifyAnswer,
    example={
        "model": "efficientnet-lite0",
        "image": {"width": 768, "height": 576},
        "labels": [
            {"index": 235, "label": "German shepherd", "score": 0.4078},
            {"index": 249, "label": "malamute", "score": 0.2432},
        ],
    },
    run=one_inference(Kind.CLASSIFY),
    present=present,
    reply=reply,
    tensors=Tensors(outputs, collect, fixed={"top_k": 1}),
    stream=True,
)
