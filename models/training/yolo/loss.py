"""The detector's loss: the assignment of boxes to anchors, and the error of each.

Matching and weights are YOLOv5's (https://github.com/ultralytics/yolov5): an anchor is assigned to a box when
neither side differs by a factor of four or more; besides the cell of the box's centre, the two nearest
neighbours are assigned too, which triples the positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert

from models.detection.yolo_config import STRIDES

RATIO = 4.0
"""The sides of a box and its anchor differ by less than this factor, up to which the decoder reaches."""
EPS = 1e-7
"""Keeps the loss finite for boxes without sides or all in one place."""


def paired_ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU, pair by pair: Tensor[..., 4] twice, xyxy, which broadcast -> Tensor[...], at most 1.

    Zheng et al., "Distance-IoU Loss" (AAAI 2020, https://arxiv.org/abs/1911.08287), equations 8 to 11: IoU,
    less the squared distance of the centres in units of the enclosing box's diagonal, less a term for the
    difference of the aspect ratios, whose weight has no gradient. The loss is one minus it.
    """
    corner, far = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    width, height = (far - corner).clamp(min=0).unbind(-1)
    shared = width * height
    union = _area(a) + _area(b) - shared
    overlap = shared / union.clamp(min=torch.finfo(union.dtype).tiny)
    enclosing = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = centres.square().sum(-1) / (enclosing.square().sum(-1) + EPS)
    size_a, size_b = (a[..., 2:] - a[..., :2]).clamp(min=EPS), (b[..., 2:] - b[..., :2]).clamp(min=EPS)
    angle = torch.atan2(size_a[..., 0], size_a[..., 1]) - torch.atan2(size_b[..., 0], size_b[..., 1])
    aspect = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect + EPS)
    return overlap - distance - weight * aspect


def _area(boxes: Tensor) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


@dataclass(frozen=True)
class Matches:
    """The positives of one scale.

    Attributes:
        image, row, column, anchor: int64 Tensor[P], where they are.
        boxes: Tensor[P, 4], what they should give: cx, cy, w, h in pixels.
        classes: int64 Tensor[P].
        sure: Tensor[P], how much each counts, 0 to 1.
    """

    image: Tensor
    row: Tensor
    column: Tensor
    anchor: Tensor
    boxes: Tensor
    classes: Tensor
    sure: Tensor


def match(targets: Tensor, anchors: Tensor, stride: int, height: int, width: int) -> Matches:
    """Assigns boxes to the cells and anchors of one scale.

    Args:
        targets: Tensor[T, 7]: image, class, cx, cy, w, h in pixels, how sure.
        anchors: Tensor[K, 2], widths and heights in pixels.
        stride: pixels a cell.
        height, width: of the map, cells.
    """
    relative = targets[:, None, 4:6] / anchors  # [T, K, 2]
    fits = torch.maximum(relative, 1 / relative).amax(dim=2) < RATIO
    row, anchor = fits.nonzero(as_tuple=True)
    chosen = targets[row]

    cell = chosen[:, 2:4] / stride
    inside = cell - cell.floor()
    limit = torch.tensor([width, height], device=cell.device)
    # the neighbour on the side that the centre is nearer to, in x and in y, if there is one
    offsets = torch.where(inside < 0.5, -1, 1)
    steps = torch.stack(
        (
            torch.zeros_like(offsets),
            offsets * torch.tensor([1, 0], device=cell.device),
            offsets * torch.tensor([0, 1], device=cell.device),
        )
    )  # [3, P, 2]
    cells = cell.floor().long() + steps
    valid = ((cells >= 0) & (cells < limit)).all(dim=2)
    which, positive = valid.nonzero(as_tuple=True)
    place, chosen = cells[which, positive], chosen[positive]
    return Matches(
        image=chosen[:, 0].long(),
        row=place[:, 1],
        column=place[:, 0],
        anchor=anchor[positive],
        boxes=chosen[:, 2:6],
        classes=chosen[:, 1].long(),
        sure=chosen[:, 6],
    )


@dataclass(frozen=True)
class YoloLoss:
    """Weights of the three parts: 1 - CIoU of the positives, objectness of all, classes of the positives.

    Attributes:
        box, objectness, classes: how much each counts.
        balance: how much each scale's objectness counts; the fine ones have most of the cells.
    """

    box: float = 0.05
    objectness: float = 0.3
    classes: float = 0.05
    balance: tuple[float, float, float] = (4.0, 1.0, 0.4)

    def __call__(self, maps: Sequence[Tensor], targets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of one batch.

        Args:
            maps: of `Yolo.forward`, float32.
            targets: Tensor[T, 7]: image, class, cx, cy, w, h in pixels, how sure (1: as sure as a label).
            anchors: Tensor[3, K, 2], pixels.

        Returns:
            the sum, Tensor[], and its parts (box, objectness, classes), Tensor[3], detached.
        """
        zero = maps[0].new_zeros(())
        box, objectness, classes = zero, zero, zero
        for map_, stride, shapes, balance in zip(maps, STRIDES, anchors, self.balance, strict=True):
            found = match(targets, shapes, stride, map_.shape[1], map_.shape[2])
            wanted = torch.zeros_like(map_[..., 4])
            if len(found.image):
                where = (found.image, found.row, found.column, found.anchor)
                logits = map_[where]
                likely = logits[:, :4].sigmoid()
                cell = torch.stack((found.column, found.row), dim=1)
                centre = (2 * likely[:, :2] - 0.5 + cell) * stride
                size = (2 * likely[:, 2:4]).square() * shapes[found.anchor]
                overlap = paired_ciou(
                    box_convert(torch.cat((centre, size), dim=1), "cxcywh", "xyxy"),
                    box_convert(found.boxes, "cxcywh", "xyxy"),
                )
                weights = found.sure / found.sure.sum().clamp(min=1e-6)
                box = box + ((1 - overlap) * weights).sum()
                # a cell with two boxes takes the larger weight
                goal = (overlap.detach().clamp(min=0) * found.sure).to(wanted.dtype)
                _, height, width, count = wanted.shape
                flat = ((found.image * height + found.row) * width + found.column) * count + found.anchor
                wanted.view(-1).scatter_reduce_(0, flat, goal, "amax")
                if logits.shape[1] > 5:
                    kinds = F.one_hot(found.classes, logits.shape[1] - 5).to(logits.dtype)
                    wrong = F.binary_cross_entropy_with_logits(logits[:, 5:], kinds, reduction="none")
                    classes = classes + (wrong.mean(dim=1) * weights).sum()
            objectness = objectness + balance * F.binary_cross_entropy_with_logits(map_[..., 4], wanted)
        parts = torch.stack((self.box * box, self.objectness * objectness, self.classes * classes))
        return parts.sum(), parts.detach()
