"""What style transfer is asked for and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StyleOptions:
    """One request's wishes.

    Attributes:
        style: name of one of the network's styles; None means its first.
        strength: 0 gives the picture as it came, 1 the full style, between them a blend of the two.
    """

    style: str | None = None
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Stylised:
    """A picture in another manner.

    Attributes:
        width: pixels.
        height: pixels.
        pixels: uint8 [height, width, 3], RGB.
    """

    width: int
    height: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Style:
    """What the public may know of a style.

    Attributes:
        name: unique in a network; what a request names.
        title: of the painting.
        artist: who painted it, or nothing where that is unknown.
        thumbnail: the painting as a small JPEG, or nothing.
    """

    name: str
    title: str
    artist: str = ""
    thumbnail: bytes = b""
