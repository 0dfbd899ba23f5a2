"""Options and results of style transfer."""

from __future__ import annotations

from dataclasses import dataclass

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
        """uint8 [height, width, 3], RGB, of the original's size; in full strength."""
        return self.render()

    def render(
        self, max_pixels: int | None = None, original: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """The result.

        Args:
            max_pixels: it is reduced, in proportion, to at most so many pixels; None: not.
            original: uint8 [h, w, 3], RGB; needed below full strength. The result has its size.

        Returns:
            uint8 [h, w, 3], RGB.

        Raises:
            ValueError: the strength is below 1, and there is no original.
        """
        if self.strength < 1 and original is None:
            raise ValueError("below full strength the original is needed")
        height, width = (self.height, self.width) if original is None else original.shape[:2]
        height, width = within(height, width, max_pixels)
        painted = resize(self.painted, height, width, interpolation="bicubic")
        if self.strength == 1 or original is None:
            return painted
        original = resize(original, height, width)
        own = None if painted is self.painted else painted
        blended: NDArray[np.uint8] = cv2.addWeighted(
            painted, self.strength, original, 1 - self.strength, 0, own
        )
        return blended
