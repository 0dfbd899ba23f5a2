"""What the face tasks share: parameters, answers, and the way from an image to embeddings.

The detector finds the faces, each aligned chip goes alone to the embedder's queue: so chips of different
requests share batches, and an image of many faces is embedded in few. Faces are personal data: nothing about
them is logged or kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated

import torch
from pydantic import Field

from models.faces.align import cut_faces
from models.faces.result import Embedding, Face, FaceOptions, Faces
from models.faces.verify import select_face
from models.image import Image
from models.pipeline import Prepared
from service.engine.engine import Engine, KeptImage, together
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


class FaceSelect(StrEnum):
    """Which face of an image counts: the largest, or the only one there may be."""

    LARGEST = "largest"
    ONLY = "only"


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


async def embed_selected(
    engine: Engine,
    data: bytes | KeptImage,
    detector: Runner,
    embedder: Runner,
    face_select: FaceSelect,
    context: RequestContext,
    name: str | None = None,
) -> tuple[Face, Embedding, Timing]:
    """The face of an image that counts, and its embedding.

    Args:
        data: the image.
        name: of the image, for the errors.

    Raises:
        FaceNotFound, FacesMany: with that name.
        Exception: as `Engine.infer` does.
    """
    with engine.kept(min_side=CHIP_SIDE) as kept:
        found = await engine.infer(detector, data, FaceOptions(), context.deadline, keep=kept)
        face = select_face(found.result, face_select.value, name)
        vectors, timing = await embed_faces(engine, kept.image, [face], embedder, context)
    return face, vectors[0], found.timing + timing
