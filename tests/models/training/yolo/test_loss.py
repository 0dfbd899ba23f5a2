"""What the training of our YOLO compares: the match of boxes to cells, and the loss."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import ops

from models.detection.yolo_config import STRIDES
from models.training.yolo.loss import YoloLoss, match, paired_ciou
from tests.models.detection.squares import ANCHORS


def _boxes(count: int, seed: int) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 100
    return torch.cat((corners.amin(dim=1), corners.amax(dim=1)), dim=1)


def test_ciou_is_torchvisions_loss() -> None:
    a, b = _boxes(40, 3).requires_grad_(), _boxes(40, 4)
    ours = (1 - paired_ciou(a, b)).sum()
    (gradient,) = torch.autograd.grad(ours, a)
    theirs = ops.complete_box_iou_loss(a, b, reduction="sum")
    (expected,) = torch.autograd.grad(theirs, a)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def test_ciou_of_flat_boxes_is_finite() -> None:
    flat = torch.tensor([[1.0, 1.0, 1.0, 4.0]], requires_grad=True)
    value = paired_ciou(flat, torch.tensor([[0.0, 0.0, 2.0, 2.0]])).sum()
    (gradient,) = torch.autograd.grad(value, flat)
    assert math.isfinite(value.item())
    assert gradient.isfinite().all()


def test_a_box_is_matched_to_its_cell_and_two_neighbours() -> None:
    target = torch.tensor(
        [[0.0, 0.0, 35.0, 29.0, 20.0, 24.0, 1.0]]
    )  # cell (2, 1) of stride 16, right and low
    found = match(target, torch.tensor([[20.0, 20.0], [4.0, 20.0], [79.0, 40.0]]), 16, 4, 4)
    places = {*zip(found.column.tolist(), found.row.tolist(), found.anchor.tolist(), strict=True)}
    # x is 2.19 cells: the left one is nearer; y is 1.81: the lower one is. Anchor 1 is too narrow.
    expected = {(x, y, anchor) for x, y in ((2, 1), (1, 1), (2, 2)) for anchor in (0, 2)}
    assert places == expected


@settings(max_examples=60, deadline=None)
@given(x=st.floats(0.0, 63.9), y=st.floats(0.0, 63.9), w=st.floats(3.0, 60.0), h=st.floats(3.0, 60.0))
def test_every_match_can_be_reached_by_the_decoder(x: float, y: float, w: float, h: float) -> None:
    target = torch.tensor([[0.0, 0.0, x, y, w, h, 1.0]])
    for stride, shapes in zip(STRIDES, ANCHORS, strict=True):
        found = match(target, torch.tensor(shapes), stride, 64 // stride, 64 // stride)
        cells = torch.stack((found.column, found.row), dim=1)
        reach = found.boxes[:, :2] / stride - cells
        assert ((reach >= -0.5 - 1e-4) & (reach <= 1.5 + 1e-4)).all()
        assert (found.boxes[:, 2:] / torch.tensor(shapes)[found.anchor] < 4).all()
        assert ((cells >= 0) & (cells < 64 // stride)).all()


def test_the_right_answer_costs_almost_nothing() -> None:
    """Logits that decode to the target, with sure objectness, have a loss near zero; wrong ones do not."""
    targets = torch.tensor([[0.0, 1.0, 33.0, 30.0, 22.0, 25.0, 1.0]])
    anchors = torch.tensor(ANCHORS)
    right = [torch.full((1, 64 // stride, 64 // stride, 3, 7), -12.0) for stride in STRIDES]
    for map_, stride, shapes in zip(right, STRIDES, anchors, strict=True):
        found = match(targets, shapes, stride, map_.shape[1], map_.shape[2])
        where = (found.image, found.row, found.column, found.anchor)
        cells = torch.stack((found.column, found.row), dim=1)
        centre = (found.boxes[:, :2] / stride - cells + 0.5) / 2
        size = (found.boxes[:, 2:] / shapes[found.anchor]).sqrt() / 2
        map_[where] = torch.cat(
            (
                torch.cat((centre, size), dim=1).logit(),
                torch.tensor([[12.0, -12.0, 12.0]]).expand(len(cells), 3),
            ),
            1,
        )
    best, parts = YoloLoss()(right, targets, anchors)
    assert best < 1e-3
    assert (parts >= 0).all()
    worse = [map_.clone().requires_grad_() for map_ in right]
    with torch.no_grad():
        for map_ in worse:
            map_[..., 0] += 1
    loss, _ = YoloLoss()(worse, targets, anchors)
    assert loss > 10 * best
    loss.backward()
    gradient = worse[1].grad
    assert gradient is not None
    assert gradient.isfinite().all()


def test_a_batch_without_objects_still_learns_that_there_are_none() -> None:
    maps = [torch.zeros(2, 8, 8, 3, 5, requires_grad=True) for _ in STRIDES]
    loss, parts = YoloLoss()(maps, torch.zeros(0, 7), torch.tensor(ANCHORS))
    assert parts[0] == 0
    loss.backward()
    gradient = maps[0].grad
    assert gradient is not None
    assert (gradient[..., 4] > 0).all()
    assert (gradient[..., :4] == 0).all()


def test_what_is_half_sure_pulls_less_and_is_wanted_less() -> None:
    maps = [torch.zeros(1, 64 // stride, 64 // stride, 3, 5, requires_grad=True) for stride in STRIDES]
    box = [33.0, 30.0, 22.0, 25.0]

    def pull(*rows: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of one scale, of the boxes and of objectness."""
        loss, _ = YoloLoss()(maps, torch.tensor(rows), torch.tensor(ANCHORS))
        (gradient,) = torch.autograd.grad(loss, maps[1])
        return gradient[..., :4], gradient[..., 4]

    surely, wanted = pull([0, 0, *box, 1.0])
    half, less = pull([0, 0, *box, 0.5])
    torch.testing.assert_close(surely, half)  # alone it is the whole mean, however sure
    hit = wanted < wanted.amax() - 1e-6
    assert hit.any()
    assert (less[hit] > wanted[hit]).all()
    torch.testing.assert_close(less[~hit], wanted[~hit])
    both, _ = pull([0, 0, *box, 1.0], [0, 0, 12.0, 50.0, 22.0, 25.0, 0.25])
    place = surely.abs().sum(-1) > 0
    torch.testing.assert_close(both[place], 0.8 * surely[place])
