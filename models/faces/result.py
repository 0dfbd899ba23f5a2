"""Options and results of face models.

Faces are personal data: nothing here is written to a log, and no `repr` shows an embedding's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.parameters import Parameters

Point = tuple[float, float]
Landmarks = tuple[Point, Point, Point, Point, Point]


class FaceRotation(StrEnum):
    """Whether faces are looked for in all four directions where none stands upright."""

    AUTO = "auto"
    NONE = "none"


class FaceSelect(StrEnum):
    """Which face of an image counts: the largest, or the only one there may be."""

    LARGEST = "largest"
    ONLY = "only"


class FaceSearchOptions(Parameters):
    """How faces are looked for in an image; None means that it is chosen by the image."""

    min_size: float | None = Field(
        None,
        ge=0,
        description="smallest face to find and to give, pixels of the original; left out: 2 % of the image's "
        "shorter side, or as small as one look finds where that found a large face",
    )
    rotate: FaceRotation = Field(
        FaceRotation.AUTO, description="`auto`: where no face stands upright, turned ones are looked for"
    )


class FaceOptions(FaceSearchOptions):
    """Options of a request to a face detector; None means the model's own default."""

    score_threshold: float | None = Field(
        None, ge=0, le=1, description="least score of a face; the model's own if left out"
    )
    max_faces: int = Field(100, ge=1, le=1000, description="the surest so many")


class LargeFaceOptions(FaceOptions):
    """Options of a look for large faces alone, those from `Pipeline.large_face` on."""


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
        min_face: the smallest face that was looked for, pixels of the original.
        rotation: degrees counterclockwise by which the image was turned for its faces to stand upright.
    """

    width: int
    height: int
    items: tuple[Face, ...]
    min_face: float = 0.0
    rotation: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A face's vector in a network's embedding space.

    Attributes:
        vector: float32 [D]. Vectors of one `model` alone may be compared.
        model: hex SHA-256 that names the weights it came from (`Card.sha256`).
    """

    vector: NDArray[np.float32] = field(repr=False)
    model: str
