"""The steps between MTCNN's networks: candidates are chosen and cropped, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.boxes import Indices, area, batched_nms, best_of_each, overlap
from models.faces.mtcnn.pyramid import GREY
from models.faces.result import FaceOptions
from models.image import Letterbox

Floats = NDArray[np.float32]

_FAR = 100_000  # pixels from the canvas; no candidate that may be a face lies there


@dataclass(frozen=True, slots=True)
class FaceContext:
    """What `MtcnnPipeline.postprocess` needs of one request.

    Attributes:
        canvas: the image on the canvas.
        geometry: how it lies there.
        options: of the request.
        large: the proposals are of the sizes for large faces alone.
    """

    canvas: NDArray[np.uint8] = field(repr=False)
    geometry: Letterbox
    options: FaceOptions
    large: bool = False


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes that may be faces, float32 [K, 4] on their canvases, with score and index of the image."""

    boxes: Floats
    scores: Floats
    images: Indices

    def __getitem__(self, index: Indices) -> Candidates:
        return Candidates(self.boxes[index], self.scores[index], self.images[index])

    def best(self, limit: int | Sequence[int], count: int) -> Indices:
        """Indices of each image's best, at most `limit` (one for all or of each), by image and score."""
        return best_of_each(self.scores, self.images, limit, count)

    def suppressed(self, threshold: float, groups: Indices | None = None) -> Indices:
        """Indices of those that no better one of their image (or group) overlaps by more than an IoU."""
        return batched_nms(self.boxes, self.scores, self.images if groups is None else groups, threshold)


_CELL = np.dtype((np.void, 16))  # what is gathered at once: four sums


class Crops:
    """Cuts candidates out of the canvases of a batch, each pixel of a crop the mean of the pixels under it.

    What lies outside of the image is grey, so a face that its edge cuts keeps its proportions.

    The sums come from a table of the sums of all pixels above and to the left (Crow, "Summed-area tables for
    texture mapping", SIGGRAPH 1984), so a large face costs no more than a small one and one gather serves all
    candidates.
    """

    def __init__(self, contexts: Sequence[FaceContext]) -> None:
        self.height, self.width = contexts[0].canvas.shape[:2]
        # a fourth channel: rows of 16 bytes are gathered far faster than rows of 12
        sums: NDArray[np.int32] = np.empty((len(contexts), self.height + 1, self.width + 1, 4), np.int32)
        for context, own in zip(contexts, sums, strict=True):
            cv2.integral(cv2.cvtColor(context.canvas, cv2.COLOR_RGB2RGBA), sum=own)
        self.table = sums.reshape(-1, 4).view(_CELL)[:, 0]
        # where each image lies on its canvas: what is cut ends there
        self.bounds = np.array(
            [
                (
                    g.pad_x,
                    g.pad_y,
                    g.pad_x + round(g.width * g.scale_x),
                    g.pad_y + round(g.height * g.scale_y),
                )
                for g in (context.geometry for context in contexts)
            ],
            np.int64,
        )

    def cut(self, found: Candidates, side: int) -> Floats:
        """float32 [K, side, side, 3]: every candidate's part of its image, stretched to the crop."""
        bounds = self.bounds[found.images]
        low, high = bounds[:, :2, None], bounds[:, 2:, None]
        boxes = np.floor(found.boxes).clip(-_FAR, _FAR).astype(np.int64)
        steps = np.arange(side)
        start, size = boxes[:, :2, None], np.maximum(boxes[:, 2:] - boxes[:, :2], 1)[..., None]
        # the bins of an adaptive average pooling: rounded outwards, so never empty
        first, last = start + steps * size // side, start - (-(steps + 1) * size // side)
        whole_x, whole_y = (last - first).swapaxes(0, 1)
        (x1, y1), (x2, y2) = (edge.clip(low, high).swapaxes(0, 1) for edge in (first, last))
        rows = (found.images[:, None] * (self.height + 1) + np.stack((y1, y2))) * (self.width + 1)
        (top, bottom), left, right = rows[..., None], x1[:, None], x2[:, None]
        total = self._sums(bottom + right)
        total -= self._sums(bottom + left)
        total -= self._sums(top + right)
        total += self._sums(top + left)
        inside = (y2 - y1)[:, :, None] * (x2 - x1)[:, None, :]
        count = whole_y[:, :, None] * whole_x[:, None, :]
        grey, divisor = (GREY * (count - inside)).astype(np.float32), count.astype(np.float32)
        means = total.astype(np.float32)
        crops: Floats = np.empty((*count.shape, 3), np.float32)
        for channel in range(3):  # each by itself: NumPy is slow where the last axis is as short as this
            np.divide(means[..., channel] + grey, divisor, out=crops[..., channel])
        return crops

    def _sums(self, places: Indices) -> NDArray[np.int32]:
        """Places in the table, [...], -> the sums there, [..., 4]."""
        sums: NDArray[np.int32] = self.table.take(places).view(np.int32).reshape(*places.shape, 4)
        return sums


def shift(boxes: Floats, shifts: Floats) -> Floats:
    """Moves each edge by its regression, in units of the box's width or height."""
    moved: Floats = boxes + shifts * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return moved


def square(found: Candidates, boxes: Floats) -> Candidates:
    """Candidates with these boxes made square about their centres."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True, initial=-np.inf) / 2
    return Candidates(np.concatenate((centres - half, centres + half), 1), found.scores, found.images)


def nms_over_min_area(found: Candidates, threshold: float) -> Indices:
    """Greedy suppression by the intersection over the smaller box: takes away a face inside of a face."""
    return batched_nms(found.boxes, found.scores, found.images, threshold, over_smaller)


def over_smaller(
    a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]], threshold: NDArray[np.floating[Any]]
) -> NDArray[np.bool_]:
    """As `models.boxes.over_union`, but of the intersection over the smaller box."""
    smaller = np.minimum(area(a)[:, None], area(b))
    shares = overlap(a, b) / np.maximum(smaller, np.finfo(smaller.dtype).tiny)
    over: NDArray[np.bool_] = shares > threshold[:, None]
    return over
