"""Boxes: overlap and non-maximum suppression.

Boxes are float Tensor[..., 4]; by default they are `xyxy`: x1, y1, x2, y2 with x1 <= x2, y1 <= y2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

_FAR = 1e6  # pixels; no canvas is that large


def area(boxes: Tensor) -> Tensor:
    """Tensor[..., 4] -> Tensor[...]; a box with its corners crossed has none (unlike torchvision's)."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, pair by pair: Tensor[..., 4] twice, which broadcast -> Tensor[...], 0 to 1.

    Two boxes without area have an IoU of 0; with torchvision's `box_iou` it is NaN.
    """
    corner = torch.maximum(a[..., :2], b[..., :2])
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - corner).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(a) + area(b) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box of Tensor[..., N, 4] with every box of Tensor[..., M, 4] -> Tensor[..., N, M]."""
    return paired_iou(a[..., :, None, :], b[..., None, :, :])


def paired_ciou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU, pair by pair: Tensor[..., 4] twice, which broadcast -> Tensor[...], at most 1.

    Zheng et al., "Distance-IoU Loss" (AAAI 2020, https://arxiv.org/abs/1911.08287), equations 8 to 11: IoU,
    less the squared distance of the centres in units of the enclosing box's diagonal, less a term for the
    difference of the aspect ratios, whose weight has no gradient. The loss is one minus it.
    """
    overlap = paired_iou(a, b)
    enclosing = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = centres.square().sum(-1) / (enclosing.square().sum(-1) + eps)
    size_a, size_b = (a[..., 2:] - a[..., :2]).clamp(min=eps), (b[..., 2:] - b[..., :2]).clamp(min=eps)
    angle = torch.atan2(size_a[..., 0], size_a[..., 1]) - torch.atan2(size_b[..., 0], size_b[..., 1])
    aspect = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect + eps)
    return overlap - distance - weight * aspect


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float | Tensor) -> Tensor:
    """Greedy non-maximum suppression within groups, all groups in one call.

    Groups are kept apart by moving each to its own place of the plane, in float64: with float32, which is
    torchvision's way, a large batch's offsets lose the coordinates' low bits and boxes at the threshold flip.

    Args:
        boxes: Tensor[K, 4], finite.
        scores: Tensor[K].
        groups: integer Tensor[K], such as image * classes + class; different groups are never compared.
        iou_threshold: a box is dropped when its IoU with a kept one of its group is more. One for all, or
            Tensor[K], equal for the boxes of a group.

    Returns:
        int64 Tensor[<= K]: indices of the boxes kept, by falling score.
    """
    if boxes.shape[0] == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    exact = boxes.double()
    lowest = exact.min()
    # a power of two, so that sums with whole or simply broken coordinates are exact
    step = torch.exp2(torch.ceil(torch.log2((exact.max() - lowest).clamp(min=1.0) + 1)))
    placed = exact + (groups.double() * step)[:, None]
    if not isinstance(iou_threshold, Tensor):
        return nms(placed, scores.double(), iou_threshold)  # type: ignore[no-any-return]
    kept = []
    for threshold in iou_threshold.unique().tolist():  # nearly always one: the model's default
        members = (iou_threshold == threshold).nonzero()[:, 0]
        kept.append(members[nms(placed[members], scores[members].double(), threshold)])
    together = torch.cat(kept)
    return together[scores[together].argsort(descending=True, stable=True)]


@dataclass(frozen=True, slots=True)
class Selection:
    """Boxes that survived, of a whole batch, ordered by image and then by falling score.

    Attributes:
        boxes: Tensor[K, 4].
        scores: Tensor[K].
        classes: int64 Tensor[K].
        images: int64 Tensor[K], the index in the batch.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    images: Tensor


def select(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float | Tensor,
    iou_threshold: float | Tensor,
    max_detections: int | Tensor,
    classes: Tensor | None = None,
    candidates: int = 1000,
) -> Selection:
    """From a detector's raw boxes to its detections: threshold, cap, class-wise NMS, cap; once for a batch.

    Every image has its own limits, and no image's result depends on the others. All work stays
    on the boxes' device.

    Args:
        boxes: Tensor[N, A, 4].
        scores: Tensor[N, A, C]; a box may be several classes.
        score_threshold: at least this, one for all or Tensor[N].
        iou_threshold: as in `batched_nms`, one for all or float64 Tensor[N].
        max_detections: one for all or integer Tensor[N].
        classes: bool Tensor[N, C], the classes wanted; None means all.
        candidates: only the best-scored so many (box, class) pairs of an image go into NMS.
    """
    count, _, labels = scores.shape
    device = boxes.device
    scores = scores.float()
    wanted = scores >= _per_image(score_threshold, count, scores).view(-1, 1, 1)
    if classes is not None:
        wanted = wanted & classes[:, None, :]
    flat = torch.where(wanted, scores, -1.0).flatten(1)
    best, order = flat.topk(min(candidates, flat.shape[1]), dim=1)
    images, places = (best >= 0).nonzero(as_tuple=True)
    order = order[images, places]
    # a box that overflowed must not spoil the batch's arithmetic
    chosen = boxes[images, order // labels].float().nan_to_num(0.0).clamp(-_FAR, _FAR)
    picked, kinds = best[images, places], order % labels

    limit = iou_threshold.to(device)[images] if isinstance(iou_threshold, Tensor) else iou_threshold
    kept = batched_nms(chosen, picked, images * labels + kinds, limit)
    kept = kept[images[kept].argsort(stable=True)]  # by image; within it the scores stay in order
    owners = images[kept]
    sizes = torch.bincount(owners, minlength=count)
    rank = torch.arange(len(kept), device=device) - (sizes.cumsum(0) - sizes)[owners]
    kept = kept[rank < _per_image(max_detections, count, rank)[owners]]
    return Selection(chosen[kept], picked[kept], kinds[kept], images[kept])


def _per_image(value: float | Tensor, count: int, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(count)
