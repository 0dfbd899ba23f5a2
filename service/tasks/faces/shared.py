"""What the face tasks share: parameters, answers, and the way from an image to embeddings.

The detector finds the faces, each aligned chip goes alone to the embedder's queue: so chips of different
requests share batches, and an image of many faces is embedded in few. Faces are personal data: nothing about
them is logged or kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Self

from pydantic import Field

from models.faces.align import cut_faces
from models.faces.result import Embedding, Face, FaceOptions, Faces, FaceSearchOptions, FaceSelect
from models.faces.verify import select_face
from models.image import Image
from models.pipeline import Prepared
from service.engine.engine import Engine, KeptImage, together
from service.engine.runner import Runner
from service.request import RequestContext
from service.tasks.faces.find import find_faces, min_side
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


class FaceSearch(AnswerModel):
    """What was looked for in an image."""

    min_face: float = Field(description="the smallest face looked for, pixels of the original")
    rotation: int = Field(
        description="degrees counterclockwise by which the image was turned for its faces to stand upright"
    )

    @classmethod
    def of(cls, faces: Faces) -> Self:
        """Of what a detector found."""
        return cls(min_face=round(faces.min_face, 1), rotation=faces.rotation)


class FacesAnswer(ImageAnswer):
    """Faces of one image, the surest first."""

    search: FaceSearch
    faces: list[FaceAnswer]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The faces of one image, each with its embedding, and the model that embedded them."""

    faces: Faces
    embeddings: tuple[Embedding, ...]
    embedder: str
    sha256: str


async def embed_faces(
    engine: Engine,
    image: Image,
    faces: Sequence[Face],
    embedder: Runner,
    context: RequestContext,
    waited: float = 0.0,
) -> tuple[list[Embedding], Timing]:
    """The embedding of each face of a decoded image, and the timing of the slowest; `waited` as of
    `Engine.infer_prepared`."""
    if not faces:
        return [], Timing()

    def cut(face: Face) -> Prepared:
        return embedder.pipeline.preprocess(cut_faces(image, [face], embedder.card.space.template)[0])

    answers = await together(
        [
            partial(engine.infer_prepared, embedder, partial(cut, face), context.deadline, waited)
            for face in faces
        ],
        embedder.window,
    )
    return [answer.result for answer in answers], Timing.slowest(answer.timing for answer in answers)


@dataclass(frozen=True, slots=True)
class Selected:
    """The face of an image that counts, all that were found, and its embedding."""

    face: Face
    faces: Faces
    embedding: Embedding
    timing: Timing


async def embed_selected(
    engine: Engine,
    data: bytes | KeptImage,
    detector: Runner,
    embedder: Runner,
    options: FaceSearchOptions,
    face_select: FaceSelect,
    context: RequestContext,
    name: str | None = None,
) -> Selected:
    """The face of an image that counts, and its embedding.

    Args:
        data: the image.
        options: how its faces are looked for.
        name: of the image, for the errors.

    Raises:
        FaceNotFound, FacesMany: with that name.
        Exception: as `Engine.infer` does.
    """
    largest = face_select is FaceSelect.LARGEST
    asked = FaceOptions(min_size=options.min_size, rotate=options.rotate)
    with KeptImage(engine.memory, min_side=max(CHIP_SIDE, await min_side(engine, data, asked))) as kept:
        found = await find_faces(engine, detector, data, asked, context, kept, largest=largest)
        face = select_face(found.result, face_select, name)
        vectors, timing = await embed_faces(engine, kept.image, [face], embedder, context, found.timing.queue)
    return Selected(face, found.result, vectors[0], found.timing + timing)
