"""Options and results of face models.

Faces are personal data: nothing here is written to a log, and no `repr` shows an embedding's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.parameters import Parameters

Point = tuple[float, float]
Landmarks = tuple[Point, Point, Point, Point, Point]


class FaceOptions(Parameters):
    """Options of a request to a face detector; None means the model's own default.

    The detector has its own smallest face besides `min_size`, a fraction of the image's longer side.
    """

    score_threshold: float | None = Field(
        None, ge=0, le=1, description="least score of a face; the model's own if left out"
    )
    min_size: float = Field(0.0, ge=0, description="smallest face to give, pixels of the shorter side")
    max_faces: int = Field(100, ge=1, le=1000, description="the surest so many")


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
    """A face's vector in a network's embedding space.

    Attributes:
        vector: float32 [D]. Vectors of one `model` alone may be compared.
        model: hex SHA-256 that names the weights it came from (`Card.sha256`).
    """

    vector: NDArray[np.float32] = field(repr=False)
    model: str
