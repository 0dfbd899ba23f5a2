"""Sheets of filters: each over its own range, of any layer, dead ones crossed out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

from models.classification.explain.drawing import WIDTH
from models.classification.explain.filters import filter_sheet
from models.classification.lenet import LeNet5
from models.errors import ParameterInvalid
from tests.models.classification.explain.test_cam import pipeline_of


class Filters(nn.Module):
    """Three layers: over colours, over many channels, of one pixel; with dead filters among the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 9, 3)
        self.second = nn.Conv2d(9, 300, 5)
        self.point = nn.Conv2d(300, 4, 1)
        with torch.no_grad():
            self.first.weight[4] = 0
            self.first.weight[2] *= 1e-5
            self.first.weight[7] *= 0.01  # faint, but alive

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.point(self.second(self.first(inputs))).mean((2, 3))
        return found


def test_every_filter_is_stretched_by_itself_and_dead_ones_are_crossed_out() -> None:
    found = filter_sheet(pipeline_of(Filters(), size=48, classes=4))
    assert found.shape[1] >= WIDTH
    red = (found == (200, 40, 40)).all(2)
    step = (found.shape[1] - 4) // 3
    below = np.flatnonzero(red.any(1))
    assert red[:, step * 2 : step * 3].any()  # 2, in the first row
    assert red[:, step : step * 2].any()  # 4, in the second
    assert not red[:, :step].any()
    assert below[-1] < 2 * (step + 30)
    # 7 is a hundredth of the others and as much in contrast
    seventh = found[2 * (step + 12) : 3 * step, step + 8 : 2 * step - 8]
    assert int(seventh.max()) - int(seventh.min()) > 200


def test_filters_of_any_layer() -> None:
    pipeline = pipeline_of(Filters(), size=48, classes=4)
    first = filter_sheet(pipeline, "first")
    np.testing.assert_array_equal(first, filter_sheet(pipeline))
    many = filter_sheet(pipeline, "second")
    assert (many[:, :, 0] == many[:, :, 1]).all()
    assert filter_sheet(pipeline, "point").shape[1] >= WIDTH
    with pytest.raises(ParameterInvalid, match="did you mean second") as caught:
        filter_sheet(pipeline, "secnd")
    assert caught.value.parameter == "layer"
    squeezed = pipeline_of(tv.squeezenet1_1(num_classes=10))
    np.testing.assert_array_equal(filter_sheet(squeezed, "features.0"), filter_sheet(squeezed, "features.1"))
    with pytest.raises(ParameterInvalid, match="no filters of its own"):
        filter_sheet(squeezed, "features.2")


class Linear(nn.Module):
    """No convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.classify(inputs.mean((2, 3)))
        return found


def test_colours_are_those_of_the_weights() -> None:
    network = Filters()
    found = filter_sheet(pipeline_of(network, size=48, classes=4))
    weight = network.first.weight.detach()[0]
    expected = (weight - weight.min()) / (weight.max() - weight.min()) * 255
    side = ((found.shape[1] - 4) // 3 - 4) // 3
    centres = found[4 + side // 2 : 4 + 3 * side : side, 4 + side // 2 : 4 + 3 * side : side]
    np.testing.assert_array_equal(centres, expected.round().byte().permute(1, 2, 0).numpy())


def test_a_network_without_filters() -> None:
    with pytest.raises(ParameterInvalid, match="no convolution"):
        filter_sheet(pipeline_of(Linear(), classes=4))


def test_digits_filters_are_grey() -> None:
    grey = filter_sheet(pipeline_of(LeNet5(), size=32))
    assert (grey[..., 0] == grey[..., 2]).all()
