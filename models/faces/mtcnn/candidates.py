"""The steps between MTCNN's networks: candidates are chosen and cropped, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.boxes import area, batched_nms, iou
from models.faces.mtcnn.pyramid import GREY
from models.faces.result import FaceOptions
from models.image import Letterbox

_FAR = 100_000  # pixels from the canvas; no candidate that may be a face lies there


@dataclass(frozen=True, slots=True)
class FaceContext:
    """What `MtcnnPipeline.postprocess` needs of one request."""

    canvas: NDArray[np.uint8] = field(repr=False)
    geometry: Letterbox
    options: FaceOptions


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes that may be faces, Tensor[K, 4] on their canvases, with score and index of the image."""

    boxes: Tensor
    scores: Tensor
    images: Tensor

    def __getitem__(self, index: Tensor) -> Candidates:
        return Candidates(self.boxes[index], self.scores[index], self.images[index])

    def best(self, limit: int | Tensor, count: int) -> Tensor:
        """Indices of each image's best, at most `limit` (or Tensor[count]), by image and score."""
        order = self.scores.argsort(descending=True, stable=True)
        order = order[self.images[order].argsort(stable=True)]
        owners = self.images[order]
        sizes = torch.bincount(owners, minlength=count)
        rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[owners]
        return order[rank < torch.as_tensor(limit, device=order.device).expand(count)[owners]]

    def suppressed(self, threshold: float, groups: Tensor | None = None) -> Tensor:
        """Indices of those that no better one of their image (or group) overlaps by more than an IoU."""
        return batched_nms(self.boxes, self.scores, self.images if groups is None else groups, threshold)


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
        sums = np.empty((len(contexts), self.height + 1, self.width + 1, 4), np.int32)
        for context, own in zip(contexts, sums, strict=True):
            cv2.integral(cv2.cvtColor(context.canvas, cv2.COLOR_RGB2RGBA), sum=own)
        self.table = torch.from_numpy(sums).view(-1, 4)
        # where each image lies on its canvas: what is cut ends there
        bounds = [
            (g.pad_x, g.pad_y, g.pad_x + round(g.width * g.scale_x), g.pad_y + round(g.height * g.scale_y))
            for g in (context.geometry for context in contexts)
        ]
        self.bounds = torch.tensor(bounds).long()

    def cut(self, found: Candidates, side: int) -> Tensor:
        """float32 Tensor[K, side, side, 3]: every candidate's part of its image, stretched to the crop."""
        bounds = self.bounds[found.images]
        low, high = bounds[:, :2, None], bounds[:, 2:, None]
        boxes = found.boxes.floor().clamp(-_FAR, _FAR).long()
        steps = torch.arange(side, device=boxes.device)
        start, size = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)[..., None]
        # the bins of an adaptive average pooling: rounded outwards, so never empty
        first, last = start + steps * size // side, start - (-(steps + 1) * size // side)
        whole = (last - first).unbind(1)
        first, last = torch.clamp(first, low, high), torch.clamp(last, low, high)
        (x1, y1), (x2, y2) = first.unbind(1), last.unbind(1)
        rows = (found.images[:, None] * (self.height + 1) + torch.stack((y1, y2))) * (self.width + 1)
        columns = torch.stack((x1, x2))
        corners = F.embedding(rows[:, None, :, :, None] + columns[None, :, :, None, :], self.table)
        total = corners[1, 1] - corners[0, 1] - corners[1, 0] + corners[0, 0]  # [K, side, side, 4]
        inside = (y2 - y1)[:, :, None] * (x2 - x1)[:, None, :]
        count = whole[1][:, :, None] * whole[0][:, None, :]
        return (total[..., :3] + GREY * (count - inside)[..., None]) / count[..., None]


def shift(boxes: Tensor, shifts: Tensor) -> Tensor:
    """Moves each edge by its regression, in units of the box's width or height."""
    return boxes + shifts * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def square(found: Candidates, boxes: Tensor) -> Candidates:
    """Candidates with these boxes made square about their centres."""
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return Candidates(torch.cat((centres - half, centres + half), dim=1), found.scores, found.images)


def nms_over_min_area(found: Candidates, threshold: float) -> Tensor:
    """Greedy suppression by the intersection over the smaller box, which takes away a face inside of a face.

    It is computed from the IoU: with areas A and B, the intersection is IoU * (A + B) / (1 + IoU).
    """
    order = found.scores.argsort(descending=True, stable=True)
    found = found[order]
    areas, overlap = area(found.boxes), iou(found.boxes, found.boxes)
    smaller = torch.minimum(areas[:, None], areas).clamp(min=torch.finfo(areas.dtype).tiny)
    share = overlap * (areas[:, None] + areas) / (1 + overlap) / smaller
    rivals = ((share > threshold) & (found.images[:, None] == found.images)).tril(-1)  # [lower, better]
    kept = torch.ones(len(order), dtype=torch.bool, device=order.device)
    while True:  # each round settles at least one more box; two or three rounds are enough in practice
        again = ~(rivals & kept).any(1)
        if torch.equal(again, kept):
            return order[kept]
        kept = again
