"""Options and results of a detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from models.parameters import Parameters


def names(given: Any) -> Any:
    """Names separated by commas, or several of such texts, as one tuple."""
    several = [given] if isinstance(given, str) else given
    if isinstance(several, list | tuple) and all(isinstance(text, str) for text in several):
        return tuple(name.strip() for text in several for name in text.split(","))
    return given


class DetectOptions(Parameters):
    """Options of a request to a detector; None means the model's own default."""

    score_threshold: float | None = Field(
        None, ge=0, le=1, description="least score of a detection; the model's own if left out"
    )
    iou_threshold: float | None = Field(
        None, ge=0, le=1, description="largest IoU of two boxes of a class; the model's own if left out"
    )
    max_detections: int = Field(100, ge=1, le=1000, description="the surest so many")
    classes: Annotated[tuple[str, ...] | None, BeforeValidator(names)] = Field(
        None,
        description="names of wanted classes in any case, separated by commas; the model's labels",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "null"}]},
    )


@dataclass(frozen=True, slots=True)
class Detection:
    """One object.

    Attributes:
        class_id: index into the model's labels.
        label: the class's name.
        score: 0 to 1.
        box: x1, y1, x2, y2 in float pixels of the upright original, clipped to it.
    """

    class_id: int
    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects of one image.

    Attributes:
        width: of the upright original, pixels.
        height: likewise.
        items: by falling score.
    """

    width: int
    height: int
    items: tuple[Detection, ...]
