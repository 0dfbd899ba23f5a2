"""`/v1/faces`: detect, embed, verify, compare."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from models.errors import ECHO, ParameterInvalid
from models.faces.result import Embedding, Face, FaceOptions, Faces
from models.pipeline import Task
from service.dataplane import Answer, each
from service.faces import Embedded, Verified
from service.web.answers import answers, json_answer, picture_answer, wanted_picture
from service.web.call import begin, while_connected
from service.web.house import Home
from service.web.intake import NEEDS_BODY, images_body
from service.web.json_text import Structure, check_structure
from service.web.schemas import (
    CompareIn,
    EmbeddedFaceOut,
    EmbeddedFacesOut,
    EmbeddingIn,
    FaceOut,
    FacesOut,
    Size,
    VerdictOut,
    VerifyOut,
    Version,
)

router = APIRouter(prefix="/v1/faces", tags=["faces"])
COMPARE_BYTES = 1024 * 1024
STRUCTURE = Structure(values=16 * 1024, lists=256, objects=256, names=4096)
"""Of two faces as `/v1/faces/embed` gives them, with embeddings of up to 4,096 numbers."""
Model = Annotated[str | None, Query(description="a served face detector; the default one if left out")]
Embedder = Annotated[str | None, Query(description="a served embedding model; the default one if left out")]
Score = Annotated[
    float | None, Query(ge=0, le=1, description="least score of a face; the model's own if left out")
]
MinSize = Annotated[float, Query(ge=0, description="smallest face to give, pixels of the shorter side")]
MaxFaces = Annotated[int, Query(ge=1, le=1000, description="the surest so many")]
Threshold = Annotated[float | None, Query(ge=0, le=10, description="largest distance of one person's faces")]


class FaceSelect(StrEnum):
    """Which face of a picture counts: the largest, or the only one there may be."""

    LARGEST = "largest"
    ONLY = "only"


@router.post("/detect", response_model=FacesOut, openapi_extra=NEEDS_BODY)
async def detect(
    request: Request,
    house: Home,
    model: Model = None,
    score_threshold: Score = None,
    min_size: MinSize = 0.0,
    max_faces: MaxFaces = 100,
) -> Response:
    """Faces of one image, or of several in order; `Accept: image/*` asks for the annotated picture."""
    call = begin(request)
    deadline = house.deadline(request)
    images = (await house.images(request, "image"))["image"]
    options = FaceOptions(score_threshold, min_size, max_faces)
    kind = wanted_picture(request)
    desk = house.faces
    async with while_connected(request):
        if kind is not None and len(images) == 1:
            picture = await house.pictures.faces(images[0], options, kind, model=model, deadline=deadline)
            call.trace = picture.trace
            return picture_answer(picture.result, kind)
        found = await each(
            [partial(desk.detect, image, options, model=model, deadline=deadline) for image in images],
            house.plane.runner(Task.FACES, model).window,
        )
    return answers(request, found, _faces)


@router.post("/embed", response_model=EmbeddedFacesOut, openapi_extra=NEEDS_BODY)
async def embed(
    request: Request,
    house: Home,
    model: Model = None,
    embedder: Embedder = None,
    score_threshold: Score = None,
    min_size: MinSize = 0.0,
    max_faces: MaxFaces = 100,
) -> Response:
    """Faces of one image, or of several in order, each with its embedding."""
    begin(request)
    deadline = house.deadline(request)
    images = (await house.images(request, "image"))["image"]
    options = FaceOptions(score_threshold, min_size, max_faces)
    desk = house.faces
    async with while_connected(request):
        found = await each(
            [
                partial(desk.embed, image, options, model=model, embedder=embedder, deadline=deadline)
                for image in images
            ],
            house.plane.runner(Task.FACES, model).window,
        )
    return answers(request, found, _embedded)


@router.post("/verify", response_model=VerifyOut, openapi_extra=images_body("a", "b"))
async def verify(
    request: Request,
    house: Home,
    model: Model = None,
    embedder: Embedder = None,
    threshold: Threshold = None,
    face_select: Annotated[
        FaceSelect, Query(description="which face of a picture counts")
    ] = FaceSelect.LARGEST,
) -> Response:
    """Whether the images `a` and `b` show one person."""
    call = begin(request)
    deadline = house.deadline(request)
    images = await house.images(request, "a", "b")
    for field, found in images.items():
        if len(found) > 1:
            raise ParameterInvalid(field, f"{len(found)} images named {field!r}; send one")
    async with while_connected(request):
        answer = await house.faces.verify(
            images["a"][0],
            images["b"][0],
            select=face_select.value,
            threshold=threshold,
            model=model,
            embedder=embedder,
            deadline=deadline,
        )
    call.trace = answer.trace
    verdict = _verdict(answer.result)
    faces = {name: _face(face) for name, face in answer.result.faces.items()}
    return json_answer(VerifyOut(**verdict.model_dump(), faces=faces))


@router.post(
    "/compare",
    response_model=VerdictOut,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CompareIn"}}},
        }
    },
)
async def compare(
    request: Request, house: Home, embedder: Embedder = None, threshold: Threshold = None
) -> Response:
    """The same verdict on two embeddings that this service gave before."""
    begin(request)
    body = await house.json(request, COMPARE_BYTES)
    pair = await house.parsed(request, body, partial(_pair, body))
    result = house.faces.compare(
        _embedding(pair.a), _embedding(pair.b), threshold=threshold, embedder=embedder
    )
    return json_answer(_verdict(result))


def _pair(body: bytes) -> CompareIn:
    check_structure(body, STRUCTURE)
    try:
        return CompareIn.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "body"
        raise ParameterInvalid(name, f"{name[:ECHO]}: {first['msg']}") from None


def _embedding(given: EmbeddingIn) -> Embedding:
    return Embedding(np.asarray(given.embedding, dtype=np.float32), given.model.sha256.lower())


def _face(face: Face) -> FaceOut:
    return FaceOut(box=face.box, score=face.score, landmarks=list(face.landmarks))


def _faces(answer: Answer[Faces]) -> FacesOut:
    found = answer.result
    size = Size(width=found.width, height=found.height)
    return FacesOut(model=answer.model, image=size, faces=[_face(face) for face in found.items])


def _embedded(answer: Answer[Embedded]) -> EmbeddedFacesOut:
    found, embeddings = answer.result.faces, answer.result.embeddings
    return EmbeddedFacesOut(
        model=answer.model,
        image=Size(width=found.width, height=found.height),
        faces=[
            EmbeddedFaceOut(
                **_face(face).model_dump(),
                embedding=embedding.vector.tolist(),
                model=Version(name=answer.result.embedder, sha256=embedding.model),
            )
            for face, embedding in zip(found.items, embeddings, strict=True)
        ],
    )


def _verdict(result: Verified) -> VerdictOut:
    verdict = result.verdict
    return VerdictOut(
        verified=verdict.verified,
        distance=verdict.distance,
        similarity=verdict.similarity,
        threshold=verdict.threshold,
        metric=verdict.metric,
        model=Version(name=result.embedder, sha256=result.sha256),
    )
