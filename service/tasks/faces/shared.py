"""What the face tasks share: parameters, answers, and the way from an image to embeddings.

The detector finds the faces, each aligned chip goes alone to the embedder's queue: so chips of different
requests share batches, and an image of many faces is embedded in few. Faces are personal data: nothing about
them is logged or kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field

from models.faces.align import cut_faces
from models.faces.result import Embedding, Face, Faces
from models.image import Image
from models.pipeline import Prepared
from service.engine.engine import Engine, together
from service.engine.runner import Runner
from service.request import RequestContext
from service.tasks.task import AnswerModel, ImageAnswer
from service.telemetry.timing import Timing

CHIP_SIDE = 1440
"""Shortest side in pixels that an image may be reduced to before chips are cut: faces keep their detail."""

DetectorName = Annotated[str | None, Field(description="a served face detector; the default one if left out")]
EmbedderName = Annotated[
    str | None, Field(description="a served embedding model; the default one if left out")
]
Threshold = Annotated[
    float | None,
    Field(ge=0, le=10, description="largest distance of one person's faces; the model's own if left out"),
]


class ModelVersion(AnswerModel):
    """A model and the digest of its weights: embeddings of different ones are not compared."""

    name: str
    sha256: str


class FaceAnswer(AnswerModel):
    """One face; landmarks are the eyes, the nose's tip and the mouth's corners."""

    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2 in pixels")
    score: float
    landmarks: list[tuple[float, float]]


class FacesAnswer(ImageAnswer):
    """Faces of one image, the surest first."""

    faces: list[FaceAnswer]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The faces of one image, each with its embedding, and the model that embedded them."""

    faces: Faces
    embeddings: tuple[Embedding, ...]
    embedder: str
    sha256: str


async def embed_faces(
    engine: Engine, image: Image, faces: Sequence[Face], embedder: Runner, context: RequestContext
) -> tuple[list[Embedding], Timing]:
    """The embedding of each face of a decoded image, and the timing of the slowest."""
    if not faces:
        return [], Timing()

    def cut(face: Face) -> Prepared:
        with torch.inference_mode():
            return embedder.pipeline.preprocess(cut_faces(image, [face], embedder.card.space.template)[0])

    answers = await together(
        [partial(engine.infer_prepared, embedder, partial(cut, face), context.deadline) for face in faces],
        embedder.window,
    )
    return [answer.result for answer in answers], Timing.slowest(answer.timing for answer in answers)
