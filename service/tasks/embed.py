"""An image as a vector, for similarity search and duplicates: a classifier without its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.classification.result import Classification
from models.errors import ParameterInvalid
from models.parameters import Parameters
from models.pipeline import Card, Kind
from service.engine.engine import Answer, Engine
from service.request import RequestContext
from service.tasks.task import AnswerModel, Arrays, Images, Size, Task, Tensors, TensorSpec


class EmbedParams(Parameters):
    model: str | None = Field(None, description="a served classifier; the default one if left out")


class EmbedAnswer(AnswerModel):
    """A vector of length 1: the cosine of two of one model is their dot product."""

    model: str
    sha256: str = Field(description="of the weights: vectors of different ones are not compared")
    image: Size
    dimensions: int
    embedding: list[float]


@dataclass(frozen=True, slots=True)
class ImageVector:
    """One image as a vector.

    Attributes:
        width, height: of the upright original, pixels.
        vector: float32 [D], of length 1.
        sha256: of the weights.
    """

    width: int
    height: int
    vector: NDArray[np.float32]
    sha256: str


async def run(
    engine: Engine, images: Images, params: EmbedParams, context: RequestContext
) -> Answer[ImageVector]:
    runner = engine.find(Kind.CLASSIFY, params.model)
    answer = await engine.infer(runner, images["image"], None, context.deadline)
    result = answer.result
    return Answer(answer.model, vector_of(runner.card, result, result.width, result.height), answer.timing)


def vector_of(card: Card, result: Classification, width: int, height: int) -> ImageVector:
    """
    Raises:
        ParameterInvalid: the model gives no vectors.
    """
    if result.features is None:
        raise ParameterInvalid("model", f"the model {card.name!r} gives no vectors")
    return ImageVector(width, height, normalized(result.features), card.sha256)


def present(answer: Answer[ImageVector], params: EmbedParams) -> EmbedAnswer:
    found = answer.result
    return EmbedAnswer(
        model=answer.model,
        sha256=found.sha256,
        image=Size(width=found.width, height=found.height),
        dimensions=len(found.vector),
        embedding=found.vector.tolist(),
    )


def normalized(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [D] of length 1; zeros stay zeros."""
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def outputs(card: Card) -> tuple[TensorSpec, ...]:
    return () if card.features is None else (TensorSpec("embedding", "FP32", (card.features,)),)


def collect(card: Card, results: Sequence[ImageVector], params: EmbedParams) -> Arrays:
    """embedding FP32 [N, D], each row of length 1."""
    return {"embedding": np.stack([result.vector for result in results])}


EMBED = Task(
    name="embed",
    path="embed",
    method="Embed",
    summary="One image, or several in order, as vectors for similarity search and duplicates.",
    params=EmbedParams,
    models={"model": Kind.CLASSIFY},
    answer=EmbedAnswer,
    example={
        "model": "efficientnet-lite0",
        "sha256": "57934424b2f3a5a9a2b6d6d16e9f54a9d2a8cbe2a4e6b1f6ee1a1c9c8a2d5d60",
        "image": {"width": 768, "height": 576},
        "dimensions": 3,
        "embedding": [0.36, 0.48, 0.8],
    },
    run=run,
    present=present,
    tensors=Tensors(outputs, collect, of_pixels=vector_of),
)
