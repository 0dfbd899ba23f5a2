"""An image as a vector, for similarity search and duplicates: a classifier without its last layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.classification.result import Classification
from models.errors import ParameterInvalid
from models.parameters import Parameters
from models.pipeline import Kind
from service.engine.engine import Answer, Engine
from service.request import RequestContext
from service.tasks.task import ImageAnswer, Images, Task


class EmbedParams(Parameters):
    model: str | None = Field(None, description="a served classifier; the default one if left out")


class EmbedAnswer(ImageAnswer):
    """A vector of length 1: the cosine of two of one model is their dot product."""

    sha256: str = Field(description="of the weights: vectors of different ones are not compared")
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
    """
    Raises:
        ParameterInvalid: the model gives no vectors.
    """
    runner = engine.find(Kind.CLASSIFY, params.model)
    if runner.card.features is None:
        raise ParameterInvalid("model", f"the model {runner.card.name!r} gives no vectors")
    answer = await engine.infer(runner, images["image"], None, context.deadline)
    found: Classification = answer.result
    vector = ImageVector(found.width, found.height, found.embedding, runner.card.sha256)
    return Answer(answer.model, vector, answer.timing, answer.frames)


def present(answer: Answer[ImageVector], params: EmbedParams) -> EmbedAnswer:
    vector = answer.result.vector.tolist()
    return EmbedAnswer.of(answer, sha256=answer.result.sha256, dimensions=len(vector), embedding=vector)


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
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "image": {"width": 768, "height": 576},
        "dimensions": 3,
        "embedding": [0.36, 0.48, 0.8],
    },
    run=run,
    present=present,
)
