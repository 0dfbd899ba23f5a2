"""Boxes against plain loops and torchvision."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision import ops

from models import boxes as box_ops

Floats = NDArray[np.floating[Any]]


def random_boxes(count: int, seed: int, side: float = 100.0) -> Floats:
    corners = np.random.default_rng(seed).random((count, 2, 2), np.float32) * side
    return np.concatenate((corners.min(1), corners.max(1)), axis=1)


def random_scores(count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).random(count, np.float32)


def slow_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def slow_nms(boxes: list[list[float]], scores: list[float], groups: list[int], threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda place: -scores[place]):
        rivals = [other for other in kept if groups[other] == groups[index]]
        if all(slow_iou(boxes[index], boxes[other]) <= threshold for other in rivals):
            kept.append(index)
    return kept


def test_iou_is_torchvisions() -> None:
    a, b = random_boxes(30, 1), random_boxes(20, 2)
    expected = ops.box_iou(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(box_ops.iou(a, b), expected, rtol=1e-5, atol=1e-7)


def test_iou_of_nothing_is_nothing() -> None:
    point = np.array([[5.0, 5.0, 5.0, 5.0]])
    crossed = np.array([[9.0, 9.0, 1.0, 1.0]])
    assert box_ops.iou(point, point).item() == 0
    assert box_ops.iou(crossed, np.array([[0.0, 0.0, 10.0, 10.0]])).item() == 0
    assert box_ops.iou(np.zeros((0, 4)), point).shape == (0, 1)


# corners on a coarse grid, so that many boxes overlap by exactly a half, a third, ...
corner = st.integers(0, 8)
box = st.tuples(corner, corner, st.integers(1, 6), st.integers(1, 6)).map(
    lambda b: [float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3])]
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), rows=st.lists(st.tuples(box, st.integers(0, 3)), max_size=25))
def test_nms_is_the_slow_one(data: st.DataObject, rows: list[tuple[list[float], int]]) -> None:
    scores = data.draw(st.permutations([(index + 1) / 32 for index in range(len(rows))]))
    threshold = data.draw(st.sampled_from([0.0, 0.25, 1 / 3, 0.45, 0.5, 0.6, 2 / 3, 0.7, 1.0]))
    boxes, groups = [row[0] for row in rows], [row[1] for row in rows]
    kept = box_ops.batched_nms(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(groups, np.int64),
        threshold,
    )
    assert kept.tolist() == slow_nms(boxes, scores, groups, threshold)


def test_nms_is_torchvisions() -> None:
    boxes, groups, scores = random_boxes(400, 5), np.arange(400) % 7, random_scores(400, 6)
    for threshold in (0.1, 0.45, 0.7):
        kept = box_ops.batched_nms(boxes, scores, groups, threshold)
        theirs = ops.batched_nms(*(torch.from_numpy(one) for one in (boxes, scores, groups)), threshold)
        assert kept.tolist() == theirs.tolist()


def test_nms_keeps_what_overlaps_by_exactly_the_threshold() -> None:
    boxes = np.array([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]])  # an IoU of 1/2
    scores, groups = np.array([0.9, 0.8]), np.zeros(2, np.int64)
    assert box_ops.batched_nms(boxes, scores, groups, 0.5).tolist() == [0, 1]
    assert box_ops.batched_nms(boxes, scores, groups, 0.4999).tolist() == [0]


def test_nms_takes_a_threshold_for_every_group() -> None:
    boxes, scores = np.tile(random_boxes(60, 7), (2, 1)), np.tile(random_scores(60, 8), 2)
    groups = np.arange(120) // 60
    kept = box_ops.batched_nms(boxes, scores, groups, np.where(groups == 0, 0.3, 0.7))
    for group, limit in ((0, 0.3), (1, 0.7)):
        alone = box_ops.batched_nms(boxes[:60], scores[:60], groups[:60], limit)
        assert (kept[groups[kept] == group] - 60 * group).tolist() == alone.tolist()
    ordered = scores[kept].tolist()
    assert all(high >= low for high, low in pairwise(ordered))


def candidates(count: int = 3, anchors: int = 80, classes: int = 4) -> tuple[Floats, Floats]:
    scores = random_scores(count * anchors * classes, 8).reshape(count, anchors, classes)
    return random_boxes(count * anchors, 9).reshape(count, anchors, 4), scores


def slow_select(
    boxes: Floats, scores: Floats, score: float, overlap: float, most: int, wanted: list[bool]
) -> list[tuple[float, int, list[float]]]:
    """One image: threshold, NMS, cap, in plain Python."""
    rows = [
        (value, kind, boxes[anchor].tolist())
        for anchor, values in enumerate(scores.tolist())
        for kind, value in enumerate(values)
        if value >= score and wanted[kind]
    ]
    rows.sort(key=lambda row: -row[0])
    kept = slow_nms([row[2] for row in rows], [row[0] for row in rows], [row[1] for row in rows], overlap)
    return [rows[index] for index in kept][:most]


def test_select_gives_every_image_its_own_limits() -> None:
    boxes, scores = candidates()
    limits = [(0.5, 0.5, 20), (0.9, 0.2, 5), (0.0, 0.7, 1000)]
    wanted = np.array([[True] * 4, [True, False, True, False], [False, True, True, True]])
    found = box_ops.select(
        boxes,
        scores,
        score_threshold=np.array([row[0] for row in limits]),
        iou_threshold=np.array([row[1] for row in limits]),
        max_detections=np.array([row[2] for row in limits]),
        classes=wanted,
    )
    assert found.images.tolist() == sorted(found.images.tolist())
    for image, (score, overlap, most) in enumerate(limits):
        mine = found.images == image
        expected = slow_select(boxes[image], scores[image], score, overlap, most, wanted[image].tolist())
        got = zip(
            found.scores[mine].tolist(), found.classes[mine].tolist(), found.boxes[mine].tolist(), strict=True
        )
        assert list(got) == expected


def test_select_does_not_depend_on_batchmates() -> None:
    boxes, scores = candidates()
    boxes[1, 0] = [-math.inf, 0.0, math.inf, math.nan]  # a poisoned batchmate
    options = {"score_threshold": 0.3, "iou_threshold": 0.5, "max_detections": 50}
    together = box_ops.select(boxes, scores, **options)  # type: ignore[arg-type]
    for image in (0, 2):
        alone = box_ops.select(boxes[image : image + 1], scores[image : image + 1], **options)  # type: ignore[arg-type]
        mine = together.images == image
        np.testing.assert_array_equal(together.boxes[mine], alone.boxes)
        np.testing.assert_array_equal(together.scores[mine], alone.scores)
    assert np.isfinite(together.boxes).all()


def test_select_caps_candidates_by_score() -> None:
    boxes, scores = candidates(1)
    found = box_ops.select(
        boxes, scores, score_threshold=0.0, iou_threshold=1.0, max_detections=1000, candidates=30
    )
    assert found.scores.tolist() == np.sort(scores, axis=None)[::-1][:30].tolist()


def test_select_of_nothing_is_empty() -> None:
    boxes, scores = candidates(2)
    found = box_ops.select(boxes, scores, score_threshold=1.0, iou_threshold=0.5, max_detections=10)
    assert found.boxes.shape == (0, 4)
    assert found.images.tolist() == []
    nothing = box_ops.select(
        np.zeros((2, 0, 4)), np.zeros((2, 0, 3)), score_threshold=0.1, iou_threshold=0.5, max_detections=10
    )
    assert nothing.scores.tolist() == []


def test_many_boxes_are_suppressed_as_few_are(monkeypatch: Any) -> None:
    boxes, scores = random_boxes(900, 7, 60.0), random_scores(900, 8).round(1)  # with ties
    groups = np.random.default_rng(9).integers(0, 40, 900)
    wanted = box_ops.batched_nms(boxes, scores, groups, 0.3)
    monkeypatch.setattr(box_ops, "_TOGETHER", 50)
    np.testing.assert_array_equal(box_ops.batched_nms(boxes, scores, groups, 0.3), wanted)


def test_the_work_for_a_batch_grows_with_its_images_not_with_their_square() -> None:
    def pairs(images: int) -> int:
        looked_at = 0

        def counted(a: Floats, b: Floats, threshold: Floats) -> NDArray[np.bool_]:
            nonlocal looked_at
            looked_at += len(a) * len(b)
            return np.zeros((len(a), len(b)), np.bool_)  # the worst: nothing is dropped

        count = 1000 * images
        groups = np.repeat(np.arange(images), 1000)
        box_ops.batched_nms(random_boxes(count, 1), random_scores(count, 2), groups, 0.5, counted)
        return looked_at

    assert pairs(32) < 20 * pairs(2)
