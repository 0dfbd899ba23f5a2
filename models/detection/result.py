"""What a detector is asked for and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """One request's wishes; None means the model's own default.

    Attributes:
        score_threshold: detections below it are not given, 0 to 1.
        iou_threshold: of two boxes of one class that overlap by more, the lower-scored goes, 0 to 1.
        max_detections: the most detections to give, 1 to 1000.
        classes: names of the classes wanted; None means all.
    """

    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int = 100
    classes: tuple[str, ...] | None = None


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
