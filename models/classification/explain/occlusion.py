"""Occlusion: what a label's score loses when a part of the image is covered. It needs no gradients.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014,
https://arxiv.org/abs/1311.2901), section 4.2: a grey square covers one place after another of the network's
input. A place's heat is the mean loss of the squares that cover it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ParameterInvalid
from models.image import Pixels

FRACTION: Final = 0.2
"""A square's side, of the input's shorter side."""

MOST_PASSES: Final = 324
MOST_PIXELS: Final = MOST_PASSES * 256 * 256
"""Of one explanation: images that the network is given, and pixels of all of them."""

Square = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the network's input; the last two are outside."""


def squares(height: int, width: int, fraction: float = FRACTION) -> list[Square]:
    """The squares that cover an input one after another, each half over the one before.

    Args:
        height, width: of the input, pixels.
        fraction: a square's side, of the shorter side; over 0, at most 1.

    Raises:
        ParameterInvalid: they are too many.
    """
    side = max(1, min(round(fraction * min(height, width)), min(height, width)))
    step = max(1, side // 2)
    rows, columns = (math.ceil((length - side) / step) + 1 for length in (height, width))
    if rows * columns >= MOST_PASSES or (rows * columns + 1) * height * width > MOST_PIXELS:
        what = f"so small squares are {rows * columns} passes of the network, which are too many"
        raise ParameterInvalid("fraction", f"{what}; try a larger fraction")
    tops, lefts = (
        [min(at * step, length - side) for at in range(count)]
        for count, length in ((rows, height), (columns, width))
    )
    return [(left, top, left + side, top + side) for top in tops for left in lefts]


def covered(pixels: Pixels, square: Square) -> Pixels:
    """uint8 [H, W, C] -> a copy with a square of the image's mean colour."""
    left, top, right, bottom = square
    made = pixels.copy()
    made[top:bottom, left:right] = pixels.reshape(-1, pixels.shape[2]).mean(0).round().astype(np.uint8)
    return made


def losses(height: int, width: int, covers: Sequence[Square], lost: Sequence[float]) -> NDArray[np.float32]:
    """Where a score is lost.

    Args:
        height, width: of the input, pixels.
        covers: as `squares` gives them.
        lost: the score without a square less that with it, of each.

    Returns:
        float32 [gh, gw], 0..1, over the input; all zero where no square costs anything.
    """
    side = covers[0][2] - covers[0][0]
    cell = max(1, side // 4)
    total = np.zeros((math.ceil(height / cell), math.ceil(width / cell)), np.float64)
    count = np.zeros_like(total)
    for (left, top, right, bottom), loss in zip(covers, lost, strict=True):
        part = slice(top // cell, math.ceil(bottom / cell)), slice(left // cell, math.ceil(right / cell))
        total[part] += loss
        count[part] += 1
    mean = (total / count).clip(0)
    most = mean.max()
    heat: NDArray[np.float32] = (mean / most if most > 0 else mean).astype(np.float32)
    return heat
