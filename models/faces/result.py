"""What face models are asked for and what they answer.

Faces are personal data: nothing here is written to a log, and no `repr` shows an embedding's numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.errors import ParameterInvalid

Point = tuple[float, float]
Landmarks = tuple[Point, Point, Point, Point, Point]


@dataclass(frozen=True, slots=True)
class FaceOptions:
    """One request's wishes; None means the model's own default.

    Attributes:
        score_threshold: faces below it are not given, 0 to 1.
        min_size: faces whose shorter side is less are not given, pixels of the upright original. The detector
            has its own smallest face besides, a fraction of the image's longer side.
        max_faces: the most faces to give, 1 to 1000; the best-scored stay.

    Raises:
        ParameterInvalid: a value out of its range.
    """

    score_threshold: float | None = None
    min_size: float = 0.0
    max_faces: int = 100

    def __post_init__(self) -> None:
        if self.score_threshold is not None and not 0.0 <= self.score_threshold <= 1.0:
            raise ParameterInvalid("score_threshold", "score_threshold must be from 0 to 1")
        if not (self.min_size >= 0.0 and math.isfinite(self.min_size)):
            raise ParameterInvalid("min_size", "min_size must be zero or more pixels")
        if not 1 <= self.max_faces <= 1000:
            raise ParameterInvalid("max_faces", "max_faces must be from 1 to 1000")


@dataclass(frozen=True, slots=True)
class Face:
    """One face.

    Attributes:
        box: x1, y1, x2, y2 in float pixels of the upright original, clipped to it.
        score: 0 to 1.
        landmarks: the two eyes, the tip of the nose and the two corners of the mouth, left of the image
            before right, as (x, y) in the box's pixels; they may lie outside of the image.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: Landmarks

    @property
    def area(self) -> float:
        """Of the box, square pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


@dataclass(frozen=True, slots=True)
class Faces:
    """The faces of one image.

    Attributes:
        width: of the upright original, pixels.
        height: likewise.
        items: by falling score.
    """

    width: int
    height: int
    items: tuple[Face, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Where a face lies in a network's space.

    Attributes:
        vector: float32 [D]. Vectors of one `model` alone may be compared.
        model: hex SHA-256 that names the weights it came from (`Card.sha256`).
    """

    vector: NDArray[np.float32] = field(repr=False)
    model: str
