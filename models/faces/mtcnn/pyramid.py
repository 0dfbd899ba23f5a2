"""MTCNN's image pyramid, all sizes packed into one image.

The proposal network looks for faces of 12 pixels, so it needs the image at many sizes. One pass over one
mosaic of them takes the place of a pass per size: the network becomes a plain convolutional one of a fixed
shape, and the resizing is done on bytes before, in the thread pool. A window that would lie across two sizes
is never used, so the tiles touch.

Every size has a border of grey, in which a face that the image's edge cuts still has its middle where the
network looks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW = 12
"""Side of the proposal network's window, pixels."""
STRIDE = 2
"""Of the proposal network, pixels."""
BORDER = 4
"""Grey pixels around every size of the image, even: a face is found of which a third is cut off."""
GREY = 127
"""What is no image: zero after the networks' normalisation."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One size of the image, its border included, and its place in the mosaic, pixels; the place is even."""

    x: int
    y: int
    width: int
    height: int

    def of(self, mosaic: NDArray[Any]) -> NDArray[Any]:
        """The part of a mosaic that shows the image, without the border."""
        return mosaic[
            self.y + BORDER : self.y + self.height - BORDER, self.x + BORDER : self.x + self.width - BORDER
        ]


class Pyramid:
    """The sizes of a canvas at which faces are looked for.

    Args:
        height, width: of the canvas, pixels.
        min_face: the smallest face looked for, pixels of the canvas.
        factor: between one size and the next, below one.
        skip: so many of the largest sizes are left out, and with them the smallest faces.

    Attributes:
        tiles: the largest first.
        height, width: of the mosaic.
        windows: float32 [P, 4]: the box (xyxy, pixels of the canvas) that each output of the proposal
            network stands for.
        levels: int64 [P]: its tile, or -1 where the window is not within one tile.

    Raises:
        ValueError: the canvas is smaller than the smallest face, or a setting is out of its range.
    """

    def __init__(self, height: int, width: int, min_face: float, factor: float, skip: int = 0) -> None:
        if not (min_face >= WINDOW and 0 < factor < 1):
            raise ValueError(f"min_face must be at least {WINDOW} and factor between 0 and 1")
        sizes, scale = [], WINDOW / min_face
        while min(height, width) * scale >= WINDOW:
            sizes.append((math.ceil(width * scale) + 2 * BORDER, math.ceil(height * scale) + 2 * BORDER))
            scale *= factor
        if len(sizes) <= skip:
            least = min_face / factor**skip
            raise ValueError(f"a canvas of {height} x {width} holds no face of {least:g} pixels")
        self.tiles = _pack(sizes[skip:])
        self.height = max(tile.y + _even(tile.height) for tile in self.tiles)
        self.width = max(tile.x + _even(tile.width) for tile in self.tiles)
        rows, columns = (self.height - WINDOW) // STRIDE + 1, (self.width - WINDOW) // STRIDE + 1
        windows, levels = np.zeros((rows, columns, 4), np.float32), np.full((rows, columns), -1)
        for level, tile in enumerate(self.tiles):
            down, across = (tile.height - WINDOW) // STRIDE + 1, (tile.width - WINDOW) // STRIDE + 1
            part = np.s_[tile.y // STRIDE :, tile.x // STRIDE :]
            y, x = np.mgrid[0:down, 0:across] * float(STRIDE)
            corner = np.stack((x, y), -1) - BORDER
            scale = WINDOW / min_face * factor ** (level + skip)
            # the authors number pixels from one and round down; boxes here lie between the edges of pixels
            box = np.floor(np.concatenate(((corner + 1) / scale - 1, (corner + WINDOW) / scale), -1))
            windows[part][:down, :across], levels[part][:down, :across] = box, level
        self.windows, self.levels = windows.reshape(-1, 4), levels.ravel()

    def mosaic(self, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] -> uint8 [height, width, 3].

        Each size is sampled from the smallest of 1, 1/2, 1/4 ... of the canvas that is larger; these are
        means of 2 x 2 pixels. It finds what a mean over every pixel's area finds, in a twentieth of the time.
        """
        result = np.full((self.height, self.width, 3), GREY, np.uint8)
        for tile in self.tiles:
            part = tile.of(result)
            height, width = part.shape[:2]
            while canvas.shape[0] >= 2 * height and canvas.shape[1] >= 2 * width:
                half = (canvas.shape[1] // 2, canvas.shape[0] // 2)
                canvas = cv2.resize(canvas, half, interpolation=cv2.INTER_AREA)
            part[:] = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_LINEAR)
        return result


def _even(length: int) -> int:
    return length + length % STRIDE


def _pack(sizes: list[tuple[int, int]]) -> tuple[Tile, ...]:
    """Shelves as wide as the largest tile, columns on a shelf, tiles down a column; first fit."""
    rooms = [(_even(width), _even(height)) for width, height in sizes]
    limit, bottom = rooms[0][0], 0
    shelves: list[list[int]] = []  # next free x, top, end
    columns: list[list[int]] = []  # x, width, next free y, end of its shelf
    tiles = []
    for size, (width, height) in zip(sizes, rooms, strict=True):
        column = next((c for c in columns if width <= c[1] and c[2] + height <= c[3]), None)
        if column is None:
            shelf = next((s for s in shelves if s[0] + width <= limit and s[1] + height <= s[2]), None)
            if shelf is None:
                shelf = [0, bottom, bottom + height]
                shelves.append(shelf)
                bottom += height
            column = [shelf[0], width, shelf[1], shelf[2]]
            columns.append(column)
            shelf[0] += width
        tiles.append(Tile(column[0], column[2], *size))
        column[2] += height
    return tuple(tiles)
