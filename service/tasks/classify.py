"""Labels of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from models.classification.result import Classification, ClassifyOptions
from models.pipeline import Card, Kind
from service.engine.engine import Answer, Engine
from service.request import RequestContext
from service.tasks.task import AnswerModel, Arrays, Images, Size, Task, Tensors, TensorSpec


class ClassifyParams(ClassifyOptions):
    model: str | None = Field(None, description="a served classifier; the default one if left out")


class LabelAnswer(AnswerModel):
    """One label of a classifier."""

    index: int
    label: str
    score: float = Field(description="probability, 0 to 1")


class ClassifyAnswer(AnswerModel):
    """Labels of one image, the likeliest first."""

    model: str
    image: Size
    labels: list[LabelAnswer]


async def run(
    engine: Engine, images: Images, params: ClassifyParams, context: RequestContext
) -> Answer[Classification]:
    return await engine.infer(
        engine.find(Kind.CLASSIFY, params.model), images["image"], params, context.deadline
    )


def present(answer: Answer[Classification], params: ClassifyParams) -> ClassifyAnswer:
    result = answer.result
    return ClassifyAnswer(
        model=answer.model,
        image=Size(width=result.width, height=result.height),
        labels=[
            LabelAnswer(index=label.index, label=label.label, score=label.score) for label in result.labels
        ],
    )


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
            {"index": 235, "label": "German shepherd", "score": 0.4467},
            {"index": 249, "label": "malamute", "score": 0.1889},
        ],
    },
    run=run,
    present=present,
    tensors=Tensors(outputs, collect, fixed={"top_k": 1}),
    stream=True,
)
