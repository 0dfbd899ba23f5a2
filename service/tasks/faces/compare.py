"""Whether two embeddings that this service gave before are of one person."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from pydantic import BaseModel, Field

from models.faces.result import Embedding
from models.faces.verify import Verdict, compare
from models.parameters import Parameters
from models.pipeline import Kind
from service.engine.engine import Answer, Engine
from service.request import RequestContext
from service.tasks.faces.embed import VERSION_EXAMPLE
from service.tasks.faces.shared import EmbedderName, ModelVersion, Threshold
from service.tasks.task import AnswerModel, Body, Task
from service.telemetry.timing import Timing


class FacesCompareParams(Parameters):
    embedder: EmbedderName = None
    threshold: Threshold = None


class EmbeddingBody(BaseModel):
    """An embedding as `/v1/faces/embed` gave it; other fields of the face are ignored."""

    embedding: list[float] = Field(min_length=1, max_length=4096)
    model: ModelVersion


class CompareBody(Body):
    """Two embeddings of one model."""

    a: EmbeddingBody
    b: EmbeddingBody


class VerdictAnswer(AnswerModel):
    """Whether two faces are one person's."""

    verified: bool
    distance: float
    similarity: float = Field(description="cosine, -1 to 1")
    threshold: float = Field(description="verified where the distance is at most this")
    metric: str
    model: ModelVersion


async def run(
    engine: Engine, body: CompareBody, params: FacesCompareParams, context: RequestContext
) -> Answer[Verdict]:
    card = engine.find(Kind.EMBED, params.embedder).card
    verdict = compare(_embedding(body.a), _embedding(body.b), card, threshold=params.threshold)
    return Answer(card.name, verdict, Timing())


def _embedding(given: EmbeddingBody) -> Embedding:
    return Embedding(np.asarray(given.embedding, dtype=np.float32), given.model.sha256.lower())


def present(answer: Answer[Verdict], params: FacesCompareParams) -> VerdictAnswer:
    return verdict_answer(answer.model, answer.result)


def verdict_answer(model: str, verdict: Verdict) -> VerdictAnswer:
    """A verdict and the model whose embeddings were compared."""
    return VerdictAnswer(**asdict(verdict) | {"model": ModelVersion(name=model, sha256=verdict.model)})


FACES_COMPARE = Task(
    name="faces_compare",
    path="faces/compare",
    method="CompareFaces",
    summary="The same verdict on two embeddings that this service gave before.",
    params=FacesCompareParams,
    models={"embedder": Kind.EMBED},
    answer=VerdictAnswer,
    example={
        "verified": True,
        "distance": 0.444,
        "similarity": 0.9497,
        "threshold": 0.6,
        "metric": "euclidean",
        "model": VERSION_EXAMPLE,
    },
    images=(),
    body=CompareBody,
    run=run,
    present=present,
)
