"""Faces of an image, each with its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import Field

from models.faces.result import Embedding, Face, FaceOptions, Faces, Landmarks
from models.pipeline import Card, Kind
from service.engine.engine import Answer, Engine, KeptImage
from service.request import RequestContext
from service.tasks.faces.detect import FACES_DETECT
from service.tasks.faces.find import find_faces, min_side
from service.tasks.faces.shared import (
    CHIP_SIDE,
    DetectorName,
    Embedded,
    EmbedderName,
    FaceAnswer,
    FaceSearch,
    ModelVersion,
    embed_faces,
)
from service.tasks.task import (
    Arrays,
    ImageAnswer,
    Images,
    Size,
    Task,
    Tensors,
    TensorSpec,
    counts,
    padded,
    table,
)

MOST = 64
"""Faces of one image that are embedded, the surest: each takes the time of a whole image in other tasks."""


class FacesEmbedParams(FaceOptions):
    model: DetectorName = None
    embedder: EmbedderName = None
    aligned: bool | None = Field(
        None,
        description="the image is an aligned chip: no face is looked for; true where no detector is served",
    )


class EmbeddedFaceAnswer(FaceAnswer):
    """One face and its embedding; may be sent to `/v1/faces/compare` as it is."""

    embedding: list[float]
    model: ModelVersion


class EmbeddedFacesAnswer(ImageAnswer):
    """Faces of one image with their embeddings."""

    search: FaceSearch | None = Field(
        None, exclude_if=lambda search: search is None, description="left out of an aligned chip"
    )
    faces: list[EmbeddedFaceAnswer]


async def run(
    engine: Engine, images: Images, params: FacesEmbedParams, context: RequestContext
) -> Answer[Embedded]:
    embedder = engine.find(Kind.EMBED, params.embedder)
    aligned = not engine.serves(Kind.FACES) if params.aligned is None else params.aligned
    side = None if aligned else max(CHIP_SIDE, await min_side(engine, images["image"], params))
    with KeptImage(engine.memory, min_side=side) as kept:
        if aligned:
            one = await engine.infer(embedder, images["image"], None, context.deadline, keep=kept)
            result = whole_chip(embedder.card, one.result, kept.image.width, kept.image.height)
            return Answer(one.model, result, one.timing, one.frames)
        detector = engine.find(Kind.FACES, params.model)
        asked = params.model_copy(update={"max_faces": min(params.max_faces, MOST)})
        found = await find_faces(engine, detector, images["image"], asked, context, kept)
        vectors, timing = await embed_faces(
            engine, kept.image, found.result.items, embedder, context, found.timing.queue
        )
    result = Embedded(found.result, tuple(vectors), embedder.card.name, embedder.card.sha256)
    return Answer(found.model, result, found.timing + timing, found.frames)


def whole_chip(card: Card, embedding: Embedding, width: int, height: int) -> Embedded:
    """An aligned chip as the image of one face."""
    side, points = card.space.template.side, card.space.template.landmarks
    landmarks = cast(Landmarks, tuple((x * width / side, y * height / side) for x, y in points))
    face = Face((0.0, 0.0, float(width), float(height)), 1.0, landmarks)
    return Embedded(Faces(width, height, (face,)), (embedding,), card.name, card.sha256)


def present(answer: Answer[Embedded], params: FacesEmbedParams) -> EmbeddedFacesAnswer:
    result = answer.result
    version = ModelVersion(name=result.embedder, sha256=result.sha256)
    faces = [
        EmbeddedFaceAnswer(
            box=face.box,
            score=face.score,
            landmarks=face.landmarks,
            embedding=embedding.vector.tolist(),
            model=version,
        )
        for face, embedding in zip(result.faces.items, result.embeddings, strict=True)
    ]
    size = Size(width=result.faces.width, height=result.faces.height, frames=answer.frames)
    search = FaceSearch.of(result.faces) if result.faces.min_face else None
    return EmbeddedFacesAnswer(model=answer.model, image=size, search=search, faces=faces)


def reply(answer: Answer[Embedded], params: FacesEmbedParams) -> Mapping[str, Any]:
    """The gRPC reply names the embedder once, also where there is no face."""
    shown = present(answer, params)
    return {
        "model": shown.model,
        "image": shown.image,
        "search": shown.search,
        "embedder": ModelVersion(name=answer.result.embedder, sha256=answer.result.sha256),
        "faces": [{"face": face, "embedding": face.embedding} for face in shown.faces],
    }


def outputs(card: Card) -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("embeddings", "FP32", (-1, card.space.dimensions)),
        TensorSpec("boxes", "FP32", (-1, 4)),
        TensorSpec("counts", "INT64", ()),
    )


def collect(card: Card, results: Sequence[Embedded], params: FacesEmbedParams) -> Arrays:
    """embeddings FP32 [N, K, D], boxes FP32 [N, K, 4], counts INT64 [N].

    An image gives the embeddings of its faces, the surest face first; an aligned chip gives one, and its box
    is the whole chip.
    """
    boxes = [[face.box for face in result.faces.items] for result in results]
    vectors = [[embedding.vector for embedding in result.embeddings] for result in results]
    return {
        "embeddings": padded([table(rows, card.space.dimensions) for rows in vectors]),
        "boxes": padded([table(rows, 4) for rows in boxes]),
        "counts": counts(boxes),
    }


FACE_EXAMPLE = FACES_DETECT.example["faces"][0]
SEARCH_EXAMPLE = FACES_DETECT.example["search"]
VERSION_EXAMPLE = {
    "name": "dlib-resnet",
    "sha256": "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
}

FACES_EMBED = Task(
    name="faces_embed",
    path="faces/embed",
    method="EmbedFaces",
    summary="Faces of one image, or of several in order, each with its embedding.",
    params=FacesEmbedParams,
    models={"model": Kind.FACES, "embedder": Kind.EMBED},
    answer=EmbeddedFacesAnswer,
    example={
        **FACES_DETECT.example,
        "faces": [{**FACE_EXAMPLE, "embedding": [-0.087, 0.112, 0.034], "model": VERSION_EXAMPLE}],
    },
    run=run,
    present=present,
    reply=reply,
    tensors=Tensors(outputs, collect, model="embedder", of_pixels=whole_chip),
)
