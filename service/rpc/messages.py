"""Typed results as messages of `vision.proto`, and what its requests ask for as options."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
from google.protobuf.json_format import ParseDict

from models.classification.result import Classification, ClassifyOptions
from models.detection.result import Detections, DetectOptions
from models.errors import ParameterInvalid
from models.faces.result import Embedding, Face, FaceOptions, Faces
from models.style.result import Style, StyleOptions, Stylised
from service.dataplane import Answer, DataPlane
from service.errors import Problem
from service.faces import Embedded, Verified
from service.rpc.stubs import vision_pb2 as pb

SELECTS: dict[int, Literal["largest", "only"]] = {
    pb.FACE_SELECT_UNSPECIFIED: "largest",
    pb.FACE_SELECT_LARGEST: "largest",
    pb.FACE_SELECT_ONLY: "only",
}

FORMATS: dict[int, Literal["jpeg", "png", "webp"]] = {
    pb.PICTURE_FORMAT_UNSPECIFIED: "jpeg",
    pb.PICTURE_FORMAT_JPEG: "jpeg",
    pb.PICTURE_FORMAT_PNG: "png",
    pb.PICTURE_FORMAT_WEBP: "webp",
}


def classify_options(request: pb.ClassifyRequest) -> ClassifyOptions:
    """Left out means the same as over HTTP, here and below."""
    return ClassifyOptions(request.top_k) if request.HasField("top_k") else ClassifyOptions()


def detect_options(request: pb.DetectRequest) -> DetectOptions:
    """Ranges are checked by the model, which knows its classes."""
    usual = DetectOptions()
    return DetectOptions(
        request.score_threshold if request.HasField("score_threshold") else None,
        request.iou_threshold if request.HasField("iou_threshold") else None,
        request.max_detections if request.HasField("max_detections") else usual.max_detections,
        tuple(request.classes) or None,
    )


def face_options(request: pb.DetectFacesRequest | pb.EmbedFacesRequest) -> FaceOptions:
    """
    Raises:
        ParameterInvalid: a value out of its range.
    """
    return FaceOptions(
        request.score_threshold if request.HasField("score_threshold") else None,
        request.min_size,
        request.max_faces if request.HasField("max_faces") else FaceOptions().max_faces,
    )


def style_options(request: pb.StylizeRequest) -> StyleOptions:
    """The network checks the name and the range."""
    strength = request.strength if request.HasField("strength") else StyleOptions().strength
    return StyleOptions(request.style or None, strength)


def threshold_of(request: pb.VerifyFacesRequest | pb.CompareFacesRequest) -> float | None:
    """
    Raises:
        ParameterInvalid: out of its range.
    """
    if not request.HasField("threshold"):
        return None
    if not 0 <= request.threshold <= 10:
        raise ParameterInvalid("threshold", "threshold must be from 0 to 10")
    return request.threshold


def embedding_of(name: str, message: pb.Embedding) -> Embedding:
    """
    Raises:
        ParameterInvalid: no numbers.
    """
    if not message.embedding:
        raise ParameterInvalid(name, f"{name} has no embedding")
    return Embedding(np.asarray(message.embedding, dtype=np.float32), message.model.sha256.lower())


def classified(answer: Answer[Classification]) -> pb.ClassifyReply:
    """Labels."""
    result = answer.result
    return pb.ClassifyReply(
        model=answer.model,
        image=pb.Size(width=result.width, height=result.height),
        labels=[pb.Label(index=item.index, label=item.label, score=item.score) for item in result.labels],
    )


def detected(answer: Answer[Detections]) -> pb.DetectReply:
    """Objects."""
    result = answer.result
    return pb.DetectReply(
        model=answer.model,
        image=pb.Size(width=result.width, height=result.height),
        detections=[
            pb.Detection(class_id=item.class_id, label=item.label, score=item.score, box=_box(item.box))
            for item in result.items
        ],
    )


def faces_found(answer: Answer[Faces]) -> pb.DetectFacesReply:
    """Faces."""
    result = answer.result
    return pb.DetectFacesReply(
        model=answer.model,
        image=pb.Size(width=result.width, height=result.height),
        faces=[face(item) for item in result.items],
    )


def faces_embedded(answer: Answer[Embedded]) -> pb.EmbedFacesReply:
    """Faces with their embeddings."""
    found, embeddings = answer.result.faces, answer.result.embeddings
    return pb.EmbedFacesReply(
        model=answer.model,
        image=pb.Size(width=found.width, height=found.height),
        embedder=pb.Version(name=answer.result.embedder, sha256=answer.result.sha256),
        faces=[
            pb.EmbeddedFace(face=face(item), embedding=embedding.vector.tolist())
            for item, embedding in zip(found.items, embeddings, strict=True)
        ],
    )


def verdict(result: Verified) -> pb.Verdict:
    """Whether it is one person."""
    found = result.verdict
    return pb.Verdict(
        verified=found.verified,
        distance=found.distance,
        similarity=found.similarity,
        threshold=found.threshold,
        metric=found.metric,
        model=pb.Version(name=result.embedder, sha256=result.sha256),
    )


def face(item: Face) -> pb.Face:
    """One face."""
    return pb.Face(
        box=_box(item.box), score=item.score, landmarks=[pb.Point(x=x, y=y) for x, y in item.landmarks]
    )


def stylised(answer: Answer[tuple[bytes, Stylised]]) -> pb.StylizeReply:
    """A picture."""
    picture, painted = answer.result
    return pb.StylizeReply(
        model=answer.model, image=pb.Size(width=painted.width, height=painted.height), picture=picture
    )


def style(item: Style) -> pb.Style:
    """One style."""
    return pb.Style(name=item.name, title=item.title, artist=item.artist, thumbnail=item.thumbnail)


def problem_message(problem: Problem) -> pb.Problem:
    """Why a frame has no result."""
    return pb.Problem(code=problem.kind.code, detail=problem.detail, parameter=problem.parameter or "")


def model(plane: DataPlane, name: str, *, whole: bool) -> pb.Model:
    """A model's card; `whole` with its labels and details."""
    runner = plane.runners[name]
    card, executor = runner.card, runner.executor
    message = pb.Model(
        name=card.name,
        task=card.task.value,
        default=plane.is_default(name),
        ready=plane.is_ready(name),
        executor=executor.name,
        device=executor.device,
        precision=executor.precision,
        sha256=card.sha256,
        licence=card.license,
    )
    if card.input is not None:
        message.input.CopyFrom(pb.Size(height=card.input[0], width=card.input[1]))
    if whole:
        message.labels.extend(card.labels)
        plain = json.loads(json.dumps(dict(card.details)))  # tuples as lists: a Struct knows no tuples
        ParseDict(plain, message.details)
    return message


def _box(box: tuple[float, float, float, float]) -> pb.Box:
    x1, y1, x2, y2 = box
    return pb.Box(x1=x1, y1=y1, x2=x2, y2=y2)
