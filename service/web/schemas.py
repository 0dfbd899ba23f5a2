"""The answers as the API's document shows them; the names are fixed, more fields may stand beside them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """Base: a field that is not declared is a bug."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Size(Schema):
    """The upright original's size in pixels."""

    width: int
    height: int


class LabelOut(Schema):
    """One label of a classifier."""

    index: int
    label: str
    score: float = Field(description="probability, 0 to 1")


class ClassifyOut(Schema):
    """Labels of one image, the likeliest first."""

    model: str
    image: Size
    labels: list[LabelOut]


class DetectionOut(Schema):
    """One object of a detector."""

    class_id: int
    label: str
    score: float
    box: tuple[float, float, float, float] = Field(
        description="in the format asked for; pixels unless normalized"
    )


class DetectOut(Schema):
    """Objects of one image, the surest first."""

    model: str
    image: Size
    detections: list[DetectionOut]


class Version(Schema):
    """A model and the digest of its weights: embeddings of different ones are not compared."""

    name: str
    sha256: str


class FaceOut(Schema):
    """One face; landmarks are the eyes, the nose's tip and the mouth's corners."""

    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2 in pixels")
    score: float
    landmarks: list[tuple[float, float]]


class EmbeddedFaceOut(FaceOut):
    """One face and its embedding; may be sent to `/v1/faces/compare` as it is."""

    embedding: list[float]
    model: Version


class FacesOut(Schema):
    """Faces of one image, the surest first."""

    model: str
    image: Size
    faces: list[FaceOut]


class EmbeddedFacesOut(Schema):
    """Faces of one image with their embeddings."""

    model: str
    image: Size
    faces: list[EmbeddedFaceOut]


class VerdictOut(Schema):
    """Whether two faces are one person's."""

    verified: bool
    distance: float
    similarity: float = Field(description="cosine, -1 to 1")
    threshold: float = Field(description="verified where the distance is at most this")
    metric: str
    model: Version


class VerifyOut(VerdictOut):
    """The verdict on two images, and the faces it is about."""

    faces: dict[str, FaceOut]


class EmbeddingIn(BaseModel):
    """An embedding as `/v1/faces/embed` gave it; other fields of the face are ignored."""

    embedding: list[float] = Field(min_length=1, max_length=4096)
    model: Version


class CompareIn(BaseModel):
    """Two embeddings of one model."""

    a: EmbeddingIn
    b: EmbeddingIn


class HeatOut(Schema):
    """Where a classifier looked: Grad-CAM, 0 to 1, rows from the top of the region that the network saw."""

    model: str
    image: Size
    index: int
    label: str
    score: float
    region: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2 in pixels")
    heat: list[list[float]]


class WindowOut(Schema):
    """One window where the label is likely."""

    score: float
    box: tuple[float, float, float, float]


class WindowsOut(Schema):
    """A label's score in every window of the picture."""

    model: str
    image: Size
    index: int
    label: str
    window: tuple[float, float] = Field(description="width and height of a window in pixels")
    step: tuple[float, float] = Field(description="x and y distance of neighbouring windows in pixels")
    scores: list[list[float]] = Field(description="rows from the top; window (0, 0) begins at the corner")
    boxes: list[WindowOut]


class StyleOut(Schema):
    """One style."""

    name: str
    title: str
    artist: str
    thumbnail: str | None = Field(description="where a small picture of the painting is")


class StylesOut(Schema):
    """Every style of the default network; the first is what a request means that names none."""

    styles: list[StyleOut]


class LossesOut(Schema):
    """The three costs of a picture before the last step, without their weights."""

    content: float | None
    style: float | None
    variation: float | None


class JobOut(Schema):
    """Where a job stands."""

    id: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float = Field(description="share of the steps that is done, 0 to 1")
    step: int
    steps: int
    eta_seconds: float | None = Field(description="time it should take yet, while it runs")
    losses: LossesOut | None
    reason: Literal["restarted", "timeout", "storage", "crashed"] | None = Field(
        description="why it failed; `restarted`: the server ended before it, submit it again"
    )
    preview: str | None = Field(description="where its latest picture is")
    result: str | None = Field(description="where its picture is")
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="when job and picture are forgotten")


class ModelOut(Schema):
    """One model that is served."""

    name: str
    task: str
    default: bool
    ready: bool
    executor: str
    device: str
    precision: str
    sha256: str
    licence: str
    input: Size | None


class ModelDetailOut(ModelOut):
    """One model, with its labels and whatever else its card tells."""

    labels: list[str]
    details: dict[str, Any]


class ModelsOut(Schema):
    """All models."""

    models: list[ModelOut]


class ProblemOut(BaseModel):
    """RFC 9457 problem details; `code` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    parameter: str | None = None
    image: str | None = None
