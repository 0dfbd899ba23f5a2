"""The answers as the API's document shows them; the names are fixed, more fields may stand beside them."""

from __future__ import annotations

from typing import Any

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


class HeatOut(Schema):
    """Where a classifier looked: Grad-CAM, 0 to 1, rows from the top."""

    model: str
    image: Size
    index: int
    label: str
    heat: list[list[float]]


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
