"""Whether two images show one person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from pydantic import Field

from models.errors import FaceNotFound, FacesMany, ModelError, ParameterInvalid
from models.faces.result import FaceSearchOptions, FaceSelect
from models.faces.verify import Verdict, compare
from models.pipeline import Kind
from service.engine.engine import Answer, Engine, outcome, together
from service.request import RequestContext
from service.tasks.faces.compare import FACES_COMPARE, VerdictAnswer, verdict_answer
from service.tasks.faces.embed import FACE_EXAMPLE, SEARCH_EXAMPLE
from service.tasks.faces.shared import (
    DetectorName,
    EmbedderName,
    FaceAnswer,
    FaceSearch,
    Selected,
    Threshold,
    embed_selected,
)
from service.tasks.task import Images, Task


class FacesVerifyParams(FaceSearchOptions):
    model: DetectorName = None
    embedder: EmbedderName = None
    threshold: Threshold = None
    face_select: FaceSelect = Field(FaceSelect.LARGEST, description="which face of an image counts")


class VerifyAnswer(VerdictAnswer):
    """The verdict on two images, and the faces it is about."""

    faces: dict[str, FaceAnswer]
    search: dict[str, FaceSearch]


@dataclass(frozen=True, slots=True)
class Verified:
    """A verdict and the faces that it is about, by image."""

    verdict: Verdict
    selected: Mapping[str, Selected]


async def run(
    engine: Engine, images: Images, params: FacesVerifyParams, context: RequestContext
) -> Answer[Verified]:
    """
    Raises:
        FaceNotFound, FacesMany: with the image (``a`` or ``b``) it was.
        ModelError: an image's own error, with its name likewise.
    """
    detector = engine.find(Kind.FACES, params.model)
    embedder = engine.find(Kind.EMBED, params.embedder)

    async def one(name: str) -> Selected:
        try:
            return await embed_selected(
                engine, images[name], detector, embedder, params, params.face_select, context, name
            )
        except ParameterInvalid:
            raise
        except ModelError as error:
            error.image = name
            raise

    found = await together([partial(outcome, partial(one, name)) for name in "ab"], 2)
    for error in found:  # a's before b's, whichever was first
        if isinstance(error, Exception):
            raise error
    a, b = cast(list[Selected], found)
    verdict = compare(a.embedding, b.embedding, embedder.card, threshold=params.threshold)
    return Answer(embedder.card.name, Verified(verdict, {"a": a, "b": b}), a.timing + b.timing)


def present(answer: Answer[Verified], params: FacesVerifyParams) -> VerifyAnswer:
    verdict = verdict_answer(answer.model, answer.result.verdict)
    selected = answer.result.selected
    return VerifyAnswer(
        **dict(verdict),
        faces={name: one.face for name, one in selected.items()},
        search={name: FaceSearch.of(one.faces) for name, one in selected.items()},
    )


def reply(answer: Answer[Verified], params: FacesVerifyParams) -> Mapping[str, Any]:
    """The gRPC reply has the verdict and the faces side by side."""
    shown = present(answer, params)
    return {"verdict": shown, **shown.faces, **{f"search_{name}": one for name, one in shown.search.items()}}


FACES_VERIFY = Task(
    name="faces_verify",
    path="faces/verify",
    method="VerifyFaces",
    summary="Whether the images `a` and `b` show one person.",
    params=FacesVerifyParams,
    models={"model": Kind.FACES, "embedder": Kind.EMBED},
    answer=VerifyAnswer,
    example={
        **FACES_COMPARE.example,
        "faces": {"a": FACE_EXAMPLE, "b": FACE_EXAMPLE},
        "search": {"a": SEARCH_EXAMPLE, "b": SEARCH_EXAMPLE},
    },
    images=("a", "b"),
    several=False,
    run=run,
    present=present,
    reply=reply,
    errors=(FaceNotFound, FacesMany),
)
