"""Explanations of a classifier as `explain` and `windows` make them: maps of an image, and their overlay."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.detection.result import Detection
from models.errors import ParameterInvalid, echoed
from models.image import Image, Pixels
from models.pipeline import Card

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Where the evidence for a label lies.

    Attributes:
        index, label: the class that is explained.
        score: its probability, 0 to 1.
        grid: float32 [gh, gw], 0..1: the map as the network has it, over `region`.
        region: what the network saw, xyxy in pixels of the upright original; may reach beyond it.
        width, height: of the upright original, pixels.
    """

    index: int
    label: str
    score: float
    grid: NDArray[np.float32]
    region: Box
    width: int
    height: int

    def over(self, height: int, width: int, top: int = 0, bottom: int | None = None) -> NDArray[np.float32]:
        """The map over an image of `height` x `width` pixels that shows the whole original.

        Returns:
            float32 [bottom - top, width], 0..1, its rows from `top` to `bottom`; bilinear between the grid's
            cells, zero outside of `region`.
        """
        bottom = height if bottom is None else bottom
        scale_x, scale_y = width / self.width, height / self.height
        left, upper, right, lower = (
            edge * scale for edge, scale in zip(self.region, (scale_x, scale_y) * 2, strict=True)
        )
        rows, columns = self.grid.shape
        # warpAffine's matrix takes a pixel's centre of the output to one of the grid
        step_x, step_y = columns / (right - left), rows / (lower - upper)
        matrix = np.array(
            [
                [step_x, 0, (0.5 - left) * step_x - 0.5],
                [0, step_y, (0.5 - upper + top) * step_y - 0.5],
            ],
            np.float64,
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        array: NDArray[np.float32] = cv2.warpAffine(
            self.grid, matrix, (width, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        y, x = np.arange(top, bottom) + 0.5, np.arange(width) + 0.5
        array[(y < upper) | (y > lower)] = 0
        array[:, (x < left) | (x > right)] = 0
        return array


@dataclass(frozen=True, slots=True)
class WindowMap:
    """One label's scores over an image.

    Attributes:
        index, label: the class looked for.
        scores: float32 [gh, gw], the class's probability in each window.
        step: x, y distance of neighbouring windows, in pixels of the upright original.
        window: width, height of a window, in the same pixels; window (row, column) begins at
            (column * step[0], row * step[1]).
        boxes: the windows over the threshold that survive non-maximum suppression, by falling score.
    """

    index: int
    label: str
    scores: NDArray[np.float32]
    step: tuple[float, float]
    window: tuple[float, float]
    boxes: tuple[Detection, ...]


def find_label(card: Card, label: str) -> int:
    """The index of a label by its name, or by its index in digits where no label has that name.

    Raises:
        ParameterInvalid: the model has no such label.
    """
    if label in card.labels:
        return card.labels.index(label)
    if label.isascii() and label.isdigit() and len(label) < 10 and int(label) < len(card.labels):
        return int(label)
    raise ParameterInvalid("label", f"the model {card.name!r} has no label {echoed(label)}")


def overlay(image: Image, heat: HeatMap, strength: float = 0.6) -> Pixels:
    """The image with the heat map laid over it -> uint8 RGB of the decoded size.

    Args:
        image: what was explained.
        heat: its map.
        strength: how much of the image the hottest spot covers, 0 to 1.
    """
    height, width = image.pixels.shape[:2]
    mixed = np.empty_like(image.pixels)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):  # in bands, so that the float copies are small
        band = image.pixels[top : top + rows]
        warmth = heat.over(height, width, top, top + len(band))
        colours = cv2.applyColorMap((warmth * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
        weight = (strength * warmth)[..., None]
        mixed[top : top + rows] = band * (1 - weight) + colours * weight + 0.5
    return mixed


_BAND_PIXELS = 1 << 16
