"""Options and results of style transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.image import resize, within
from models.parameters import Parameters


class StyleOptions(Parameters):
    """Options of a request to a style network."""

    style: str | None = Field(None, description="a style's name; the first if left out")
    strength: float = Field(1.0, ge=0, le=1, description="0: the image itself; 1: the style")


Weight = Annotated[float, Field(ge=0, le=1e6, description="weight of this cost")]


class OptimiseOptions(Parameters):
    """Options of `models.style.optimise`: of a style job, whose time grows with the square of `size`."""

    size: int = Field(512, ge=64, le=1024, description="longest side of the result, pixels")
    steps: int = Field(150, ge=1, le=1000, description="steps of the optimiser")
    style_size: int | None = Field(
        None,
        ge=64,
        le=1024,
        description="longest side to which the painting is scaled: larger, larger strokes;  "
        "half as much again as `size` if left out",
    )
    content_weight: Weight = 1.0
    style_weight: Weight = 10.0
    variation_weight: Weight = 5.0
    brightness_weight: Weight = 3.0
    levels: int | None = Field(
        None,
        ge=1,
        le=4,
        description="sizes, each twice the one before, from coarse to fine; the last is `size`; "
        "if left out, so many that the first has 128 to 255 pixels",
    )
    preserve_color: bool = Field(False, description="keep the colors of the content")
    seed: int = Field(0, ge=0, lt=2**32, description="of the noise at the start: another, other strokes")
    preview_every: int = Field(10, ge=0, le=1000, description="steps between two previews; 0: none")

    @property
    def painting_size(self) -> int:
        """`style_size`, or its default."""
        return self.style_size or self.size * 3 // 2

    @property
    def level_count(self) -> int:
        """`levels`, or its default."""
        return self.levels or max(1, self.size.bit_length() - 7)


def steps_by_level(steps: int, levels: int) -> list[int]:
    """How many of a job's steps are on each level, from coarse to fine: as many on each, up to one."""
    return [steps * (level + 1) // levels - steps * level // levels for level in range(levels)]


@dataclass(frozen=True, slots=True)
class Stylized:
    """An image in another style, enlarged to its size only when it is asked for.

    Attributes:
        width, height: of the upright original, pixels.
        painted: uint8 [h, w, 3], RGB, as the network made it.
        strength: 0 to 1, the share of `painted` in the result; the rest is the original.
    """

    width: int
    height: int
    painted: NDArray[np.uint8]
    strength: float = 1.0

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], RGB, of the original's size; in full strength, without its details."""
        return self.render()

    def render(
        self, max_pixels: int | None = None, original: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """The result.

        Args:
            max_pixels: it is reduced, in proportion, to at most so many pixels; None: not.
            original: uint8 [h, w, 3], RGB; needed below full strength, and for details that are finer than
                `painted` (see `detailed`). The result has its size.

        Returns:
            uint8 [h, w, 3], RGB.

        Raises:
            ValueError: the strength is below 1, and there is no original.
        """
        if self.strength < 1 and original is None:
            raise ValueError("below full strength the original is needed")
        height, width = (self.height, self.width) if original is None else original.shape[:2]
        height, width = within(height, width, max_pixels)
        if original is None:
            return resize(self.painted, height, width, interpolation="bicubic")
        original = resize(original, height, width)
        painted = detailed(self.painted, original)
        if self.strength == 1:
            return painted
        own = None if painted is self.painted else painted
        blended: NDArray[np.uint8] = cv2.addWeighted(
            painted, self.strength, original, 1 - self.strength, 0, own
        )
        return blended


REACH = 4
"""Pixels of a painting, to every side of one, over which it is compared with its photograph."""

NOISE = 15.0
"""Levels, standard deviation: where a photograph varies less within that reach, it has no details to add."""

UNIT = 64
"""Of a gain that is stored in a byte: from -1 to nearly 3."""

ROWS = 64
"""Of a result, that are worked on at once."""


def detailed(painted: NDArray[np.uint8], original: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A painting enlarged to its photograph's size, with the photograph's edges where the painting has them.

    What enlarging cannot know is the photograph's brightness without what of it the painting's size can hold.
    It is added times the slope of the painting's brightness over the photograph's around each pixel: nothing
    where the photograph is plain, less where strokes go their own way, the reverse where the painting is
    bright and the photograph dark. He, Sun and Tang, "Guided Image Filtering" (TPAMI 2013), equation 5, has
    the slope; He and Sun, "Fast Guided Filter" (2015, https://arxiv.org/abs/1505.00996), computes it small.

    Args:
        painted: uint8 [h, w, 3], RGB.
        original: uint8 [height, width, 3], RGB.

    Returns:
        uint8 [height, width, 3]; `painted` itself where that is its size, and without details where it is
        larger than the original.
    """
    height, width = original.shape[:2]
    enlarged = resize(painted, height, width, interpolation="bicubic")
    if height * width <= painted.shape[0] * painted.shape[1]:
        return enlarged
    small = cv2.cvtColor(resize(original, *painted.shape[:2]), cv2.COLOR_RGB2GRAY)
    gain = _slope(small.astype(np.float32), cv2.cvtColor(painted, cv2.COLOR_RGB2GRAY).astype(np.float32))
    stored = (UNIT * gain + UNIT).round().clip(0, 255).astype(np.uint8)
    known = resize(cv2.merge((small, stored, stored)), height, width, interpolation="bicubic")
    for top in range(0, height, ROWS):
        rows = slice(top, top + ROWS)
        coarse, gains, _ = cv2.split(known[rows])
        fine = cv2.subtract(cv2.cvtColor(original[rows], cv2.COLOR_RGB2GRAY), coarse, dtype=cv2.CV_16S)
        added = cv2.multiply(fine, cv2.subtract(gains, float(UNIT), dtype=cv2.CV_16S), scale=1 / UNIT)
        cv2.add(enlarged[rows], cv2.merge((added, added, added)), enlarged[rows], dtype=cv2.CV_8U)
    return enlarged


def _slope(guide: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of an image over its guide around each pixel, in the mean over the squares that hold it."""

    def mean(of: NDArray[Any]) -> NDArray[np.float32]:
        blurred: NDArray[np.float32] = cv2.blur(of, (2 * REACH + 1, 2 * REACH + 1))
        return blurred

    centre = mean(guide)
    covariance = mean(guide * image) - centre * mean(image)
    return mean(covariance / (mean(guide * guide) - centre * centre + NOISE**2))
