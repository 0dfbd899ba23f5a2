"""Boxes: overlap and non-maximum suppression, on the host.

Boxes are float arrays [..., 4], xyxy: x1, y1, x2, y2 with x1 <= x2, y1 <= y2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
Rivals = Callable[[Floats, Floats, Floats], NDArray[np.bool_]]

CANDIDATES = 1000
"""Most boxes of an image that go into suppression, the best-scored."""
_FAR = 1e6  # pixels; no canvas is that large
_BLOCK = 64  # boxes that are compared with each other at once
_TOGETHER = 2048  # more boxes are parted by their groups


def area(boxes: Floats) -> Floats:
    """[..., 4] -> [...]; a box with its corners crossed has none."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: Floats = sides[..., 0] * sides[..., 1]
    return areas


def overlap(a: Floats, b: Floats) -> Floats:
    """Area of the intersection of every box of [N, 4] with every box of [M, 4] -> [N, M]."""
    width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    shared: Floats = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def iou(a: Floats, b: Floats) -> Floats:
    """IoU of every box of [N, 4] with every box of [M, 4] -> [N, M], 0 to 1; without any area it is 0."""
    shared = overlap(a, b)
    union = area(a)[:, None] + area(b) - shared
    shares: Floats = shared / np.maximum(union, np.finfo(union.dtype).tiny)
    return shares


def over_union(a: Floats, b: Floats, threshold: Floats) -> NDArray[np.bool_]:
    """Whether the IoU of each of `a` with each of `b` is over the threshold of `a`, [N]: bool [N, M]."""
    over: NDArray[np.bool_] = iou(a, b) > threshold[:, None]
    return over


def batched_nms(
    boxes: Floats,
    scores: Floats,
    groups: NDArray[np.integer[Any]],
    iou_threshold: float | Floats,
    rivals: Rivals = over_union,
) -> Indices:
    """Greedy non-maximum suppression within groups, all groups in one call.

    In float64, and a block of boxes at a time against those that are kept already: the work grows with what
    is kept, and no matrix of all pairs is made. Of many boxes only some groups are looked at together, so the
    work for a batch grows with its images, not with their square.

    Args:
        boxes: [K, 4], finite.
        scores: [K].
        groups: [K], such as image * classes + class; different groups are never compared.
        iou_threshold: a box is dropped when its IoU with a kept one of its group is more. One for all, or
            [K], equal for the boxes of a group.
        rivals: the measure of the overlap, called as `over_union`.

    Returns:
        [<= K]: indices of the boxes kept, by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    exact, owners = boxes[order].astype(np.float64), groups[order]
    limits = np.broadcast_to(np.asarray(iou_threshold, np.float64), owners.shape)[order]
    if len(order) <= _TOGETHER:
        return order[_suppressed(exact, owners, limits, rivals)]
    _, group, sizes = np.unique(owners, return_inverse=True, return_counts=True)
    part = ((np.cumsum(sizes) - sizes) // _TOGETHER)[group]  # of whole groups
    parts = [(part == number).nonzero()[0] for number in np.unique(part)]
    kept = [at[_suppressed(exact[at], owners[at], limits[at], rivals)] for at in parts]
    merged: Indices = order[np.sort(np.concatenate(kept))]
    return merged


def _suppressed(exact: Floats, owners: NDArray[np.integer[Any]], limits: Floats, rivals: Rivals) -> Indices:
    """As `batched_nms`, of boxes in the order of their scores: indices of those kept, rising."""
    kept = np.zeros(0, np.int64)
    for start in range(0, len(exact), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(exact)))
        if len(kept):
            over = rivals(exact[block], exact[kept], limits[block])
            block = block[~(over & (owners[block][:, None] == owners[kept])).any(1)]
        over = rivals(exact[block], exact[block], limits[block])
        over &= owners[block][:, None] == owners[block]
        kept = np.concatenate((kept, block[_greedy(np.tril(over, -1))]))
    return kept


def _greedy(beaten: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the boxes stay, bool [K].

    Args:
        beaten: bool [K, K]: by which better one, of a lower index, each would be dropped if that one stays.
    """
    kept: NDArray[np.bool_] = np.ones(len(beaten), np.bool_)
    while True:  # each round settles at least one more box; two or three are enough in practice
        again = np.logical_not((beaten & kept).any(1))
        if np.array_equal(again, kept):
            return kept
        kept = again


@dataclass(frozen=True, slots=True)
class Selection:
    """Boxes that survived, of a whole batch, ordered by image and then by falling score.

    Attributes:
        boxes: float32 [K, 4].
        scores: float32 [K].
        classes: [K].
        images: [K], the index in the batch.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: Indices
    images: Indices


def select(
    boxes: Floats,
    scores: Floats,
    *,
    score_threshold: float | Floats,
    iou_threshold: float | Floats,
    max_detections: int | NDArray[np.integer[Any]],
    classes: NDArray[np.bool_] | None = None,
    candidates: int = CANDIDATES,
) -> Selection:
    """From a detector's raw boxes to its detections: threshold, cap, class-wise NMS, cap; once for a batch.

    Every image has its own limits, and no image's result depends on the others.

    Args:
        boxes: [N, A, 4].
        scores: [N, A, C]; a box may be several classes.
        score_threshold: at least this, one for all or [N].
        iou_threshold: as in `batched_nms`, one for all or [N].
        max_detections: one for all or [N].
        classes: bool [N, C], the classes wanted; None means all.
        candidates: only the best-scored so many (box, class) pairs of an image go into NMS.
    """
    count, _, labels = scores.shape
    scores = scores.astype(np.float32, copy=False)
    least = np.broadcast_to(np.asarray(score_threshold, np.float32), (count,))
    wanted = scores >= least[:, None, None]
    if classes is not None:
        wanted &= classes[:, None, :]
    flat = scores.reshape(count, -1)
    rows = [
        _best(row, several.nonzero()[0], candidates)
        for row, several in zip(flat, wanted.reshape(flat.shape), strict=True)
    ]
    places = np.concatenate(rows)
    images = np.repeat(np.arange(count), [len(row) for row in rows])
    picked = flat[images, places]
    # a box that overflowed must not spoil the batch's arithmetic
    found = np.nan_to_num(boxes[images, places // labels].astype(np.float32), nan=0.0).clip(-_FAR, _FAR)
    kinds = places % labels
    limit = iou_threshold[images] if isinstance(iou_threshold, np.ndarray) else iou_threshold
    kept = batched_nms(found, picked, images * labels + kinds, limit)
    kept = kept[best_of_each(picked[kept], images[kept], max_detections, count)]
    return Selection(found[kept], picked[kept], kinds[kept], images[kept])


def _best(scores: Floats, places: Indices, most: int) -> Indices:
    """Those of the places, at most so many, where the scores are highest."""
    if len(places) <= most:
        return places
    best: Indices = places[np.argpartition(-scores[places], most - 1)[:most]]
    return best


def best_of_each(
    scores: Floats,
    images: NDArray[np.integer[Any]],
    most: int | NDArray[np.integer[Any]] | Sequence[int],
    count: int,
) -> Indices:
    """Indices of each image's best, at most `most` (one for all or [count]), by image and falling score."""
    order = np.lexsort((-scores, images))  # stable
    owners = images[order]
    sizes = np.bincount(owners, minlength=count)
    rank = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[owners]
    best: Indices = order[rank < np.broadcast_to(np.asarray(most), (count,))[owners]]
    return best
