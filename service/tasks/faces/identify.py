"""Who of a gallery an image shows: 1:N identification, with the gallery in the request. Nothing is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError, core_schema

from models.errors import FaceNotFound, FacesMany, ImageInvalid, ParameterInvalid, echoed
from models.faces.result import FaceSearchOptions, FaceSelect
from models.faces.verify import Ranking, check_embedding, rank, stack
from models.pipeline import Kind
from service.encoded import from_base64
from service.engine.engine import Answer, Engine
from service.request import RequestContext
from service.tasks.faces.embed import FACE_EXAMPLE, SEARCH_EXAMPLE, VERSION_EXAMPLE
from service.tasks.faces.shared import (
    DetectorName,
    EmbedderName,
    FaceAnswer,
    FaceSearch,
    ModelVersion,
    Selected,
    Threshold,
    embed_selected,
)
from service.tasks.task import AnswerModel, Body, Rows, Task
from service.telemetry.timing import Timing

GALLERY: Final = 1000
"""Entries of a gallery."""
NUMBERS: Final = 512 * GALLERY
"""Numbers in all of its embeddings."""
DIMENSIONS: Final = 4096
"""Numbers in one embedding."""
NAME: Final = 128
"""Characters of a name."""


class _VectorSchema:
    """An embedding becomes an array at once, so that no more than one is there as Python's numbers."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        number = core_schema.float_schema(strict=True)
        return core_schema.no_info_wrap_validator_function(
            _vector, core_schema.list_schema(number, min_length=1, max_length=DIMENSIONS)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        numbers = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": DIMENSIONS}
        text = {"type": "string", "contentEncoding": "base64", "description": "little-endian float32"}
        return {"oneOf": [numbers, text]}


def _vector(given: Any, as_list: Any) -> NDArray[np.float32]:
    if isinstance(given, np.ndarray):
        return given
    if isinstance(given, str):
        try:
            raw = from_base64(given)
        except ValueError:
            raise PydanticCustomError("base64", "the embedding is not valid base64") from None
        if len(raw) % 4 or not 4 <= len(raw) <= 4 * DIMENSIONS:
            what = f"an embedding in base64 is 1 to {DIMENSIONS} float32 of 4 bytes, little-endian"
            raise PydanticCustomError("base64_length", what)
        return np.frombuffer(raw, "<f4").astype(np.float32)
    with np.errstate(over="ignore"):  # what is not finite is found later
        return np.array(as_list(given), np.float32)


def _image(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return from_base64(given)
    except ValueError:
        raise ImageInvalid("'image' is not valid base64") from None


Vector = Annotated[NDArray[np.float32], _VectorSchema]
"""Numbers, or base64 of little-endian float32, which is a quarter of the text."""
EncodedImage = Annotated[bytes, BeforeValidator(_image), WithJsonSchema({"type": "string", "format": "byte"})]


class FacesIdentifyParams(FaceSearchOptions):
    model: DetectorName = None
    embedder: EmbedderName = None
    threshold: Threshold = None
    face_select: FaceSelect = Field(FaceSelect.LARGEST, description="which face of the image counts")
    top_k: int = Field(10, ge=1, le=GALLERY, description="how many of the gallery to give, the nearest first")
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        description="of the model that gave the embeddings, as `/v1/faces/embed` has it: another is refused; "
        "not checked if left out",
    )


class GalleryEntry(BaseModel):
    """A known face: a name and its embedding as `/v1/faces/embed` gave it; other fields are ignored."""

    name: str = Field(min_length=1, max_length=NAME)
    embedding: Vector


class FacesIdentifyBody(Body):
    """A face, as an image or an embedding, and the faces to compare it with. Other fields are parameters."""

    files: ClassVar[tuple[str, ...]] = ("image",)

    image: EncodedImage | None = Field(None, description="the face that is looked for, unless `embedding` is")
    embedding: Vector | None = Field(None, description="of the face that is looked for, in place of an image")
    gallery: list[GalleryEntry] = Field(
        min_length=1,
        max_length=GALLERY,
        description=f"known faces, each of another name; {NUMBERS:,} numbers in all",
    )

    @field_validator("gallery")
    @classmethod
    def _fits(cls, gallery: list[GalleryEntry]) -> list[GalleryEntry]:
        places: dict[str, int] = {}
        for place, entry in enumerate(gallery):
            first = places.setdefault(entry.name, place)
            if first != place:
                what = "entries {first} and {second} have one name, {name}"
                found = {"first": first, "second": place, "name": echoed(entry.name)}
                raise PydanticCustomError("name_twice", what, found)
        if sum(entry.embedding.size for entry in gallery) > NUMBERS:
            what = f"the embeddings have more than {NUMBERS} numbers in all"
            raise PydanticCustomError("numbers", what)
        return gallery


class MatchAnswer(AnswerModel):
    """One of the gallery."""

    name: str
    distance: float
    similarity: float = Field(description="cosine, -1 to 1")
    verified: bool


class IdentifyAnswer(AnswerModel):
    """Those of the gallery who are nearest to the face, and whether each is near enough."""

    probe: FaceAnswer | None = Field(description="the face of the image; null where an embedding was given")
    search: FaceSearch | None = Field(description="of that image; null likewise")
    matches: list[MatchAnswer] = Field(description="the nearest first")
    threshold: float = Field(description="verified where the distance is at most this")
    metric: str
    model: ModelVersion


@dataclass(frozen=True, slots=True)
class Identified:
    """The face that was looked for, the names of the nearest and their ranking."""

    selected: Selected | None
    names: tuple[str, ...]
    ranking: Ranking


async def run(
    engine: Engine, body: FacesIdentifyBody, params: FacesIdentifyParams, context: RequestContext
) -> Answer[Identified]:
    """
    Raises:
        FaceNotFound, FacesMany: the image.
        ParameterInvalid: neither an image nor an embedding, or both; an embedding of another model; see also
            `models.faces.verify.check_embedding`.
    """
    embedder = engine.find(Kind.EMBED, params.embedder)
    card = embedder.card
    if params.sha256 is not None and params.sha256.lower() != card.sha256:
        raise ParameterInvalid("sha256", f"the embeddings are of another model than {card.name}")
    if (body.image is None) == (body.embedding is None):
        raise ParameterInvalid("image", "send the face as an image or as an embedding: one of them")
    if body.embedding is not None:
        check_embedding("embedding", body.embedding, card)
    vectors = [entry.embedding for entry in body.gallery]
    gallery = await engine.in_decoder(partial(stack, "gallery", vectors, card), context.deadline)
    selected, probe = None, body.embedding
    if body.image is not None:
        detector = engine.find(Kind.FACES, params.model)
        selected = await embed_selected(
            engine, body.image, detector, embedder, params, params.face_select, context
        )
        probe = selected.embedding.vector
    assert probe is not None  # noqa: S101 (one of the two was given)
    work = partial(rank, probe, gallery, card, params.threshold, params.top_k)
    ranking = await engine.in_decoder(work, context.deadline)
    names = tuple(body.gallery[place].name for place in ranking.order)
    timing = Timing() if selected is None else selected.timing
    return Answer(card.name, Identified(selected, names, ranking), timing)


def present(answer: Answer[Identified], params: FacesIdentifyParams) -> IdentifyAnswer:
    found, ranking = answer.result, answer.result.ranking
    return IdentifyAnswer(
        probe=found.selected and found.selected.face,
        search=found.selected and FaceSearch.of(found.selected.faces),
        matches=[
            MatchAnswer(
                name=name, distance=distance, similarity=similarity, verified=distance <= ranking.threshold
            )
            for name, distance, similarity in zip(
                found.names, ranking.distances.tolist(), ranking.similarities.tolist(), strict=True
            )
        ],
        threshold=ranking.threshold,
        metric=ranking.metric,
        model=ModelVersion(name=answer.model, sha256=ranking.model),
    )


FACES_IDENTIFY = Task(
    name="faces_identify",
    path="faces/identify",
    method="IdentifyFace",
    summary="Ranks a gallery of embeddings, given with the face, by their distance to it; nothing is kept.",
    params=FacesIdentifyParams,
    models={"model": Kind.FACES, "embedder": Kind.EMBED},
    answer=IdentifyAnswer,
    example={
        "probe": FACE_EXAMPLE,
        "search": SEARCH_EXAMPLE,
        "matches": [
            {"name": "Ada", "distance": 0.312, "similarity": 0.9513, "verified": True},
            {"name": "Grace", "distance": 0.811, "similarity": 0.6711, "verified": False},
        ],
        "threshold": 0.6,
        "metric": "euclidean",
        "model": VERSION_EXAMPLE,
    },
    images=(),
    body=FacesIdentifyBody,
    rows=Rows(entries=GALLERY, numbers=NUMBERS, text=4 * NAME, message="GalleryEntry"),
    several=False,
    run=run,
    present=present,
    errors=(FaceNotFound, FacesMany),
)
