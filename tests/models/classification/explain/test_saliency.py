"""Integrated gradients: the axioms of the paper, and where the evidence of an image is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.classification.classifier import Classifier
from models.classification.explain.saliency import SAMPLES, STEPS, integrated_gradients, saliency
from models.errors import ParameterInvalid
from models.image import Image
from tests.models.classification.explain.test_cam import digits, picture, pipeline_of


def test_the_attributions_sum_to_the_difference_of_the_scores() -> None:
    """Completeness (proposition 1), to which the sum tends with the steps; of a trained network."""
    module = digits().module
    assert isinstance(module, Classifier)
    network = module.network.double()
    inputs = torch.zeros(3, 32, 32, dtype=torch.float64)
    inputs[:, 6:26, 14:17] = 1  # as the levels are, 0 to 1

    def score(points: Tensor) -> Tensor:
        scores: Tensor = network(points).softmax(1)[:, 1]
        return scores

    with torch.no_grad():
        difference = float(score(inputs[None])[0] - score(0 * inputs[None])[0])
    assert abs(difference) > 0.01
    apart = [
        abs(float(integrated_gradients(score, inputs, 0 * inputs, steps).sum()) - difference)
        for steps in (4, 64)
    ]
    assert apart[1] < 0.002
    assert apart[1] < apart[0] / 10


def test_of_a_polynomial_the_integral_is_known() -> None:
    """f(x, y) = x^2 y from 0: the attributions are 2/3 and 1/3 of x^2 y."""
    inputs = torch.tensor([3.0, 2.0], dtype=torch.float64)
    found = integrated_gradients(
        lambda points: points[:, 0] ** 2 * points[:, 1], inputs, torch.zeros_like(inputs), 200
    )
    torch.testing.assert_close(found, torch.tensor([12.0, 6.0], dtype=torch.float64), atol=1e-3, rtol=0)


def test_what_the_score_does_not_depend_on_gets_nothing() -> None:
    """Sensitivity (b) of the paper; and the path begins at the baseline, whatever that is."""
    inputs, baseline = torch.tensor([1.0, 5.0]), torch.tensor([-1.0, 2.0])
    found = integrated_gradients(lambda points: points[:, 0].sigmoid(), inputs, baseline, 100)
    assert found[1] == 0
    assert float(found.sum()) == pytest.approx(float(inputs[0].sigmoid() - baseline[0].sigmoid()), abs=1e-4)


def test_the_heat_of_a_digit_lies_on_its_ink() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[8:56, 26:34] = 255
    heat = saliency(digits(), Image(pixels, 64, 64), "1")
    assert (heat.label, heat.grid.shape) == ("1", (8, 8))
    assert heat.grid.max() == 1
    assert heat.grid.min() >= 0
    columns = heat.grid.sum(0)
    assert columns[2:6].sum() > 0.7 * columns.sum()
    again = saliency(digits(), Image(pixels, 64, 64), "1")
    np.testing.assert_array_equal(heat.grid, again.grid)


def test_it_ends_between_two_passes() -> None:
    passes = 0

    class Ended(Exception):
        pass

    def check() -> None:
        nonlocal passes
        passes += 1
        if passes == 3:
            raise Ended

    with pytest.raises(Ended):
        saliency(digits(), picture(), check=check)
    assert passes == 3
    counted: list[None] = []
    saliency(digits(), picture(), check=lambda: counted.append(None))
    assert len(counted) <= SAMPLES * STEPS


def test_an_input_that_is_too_large_is_refused_before_any_work() -> None:
    class Never(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("the network was run")

    pipeline = pipeline_of(Never(), size=1024)
    assert isinstance(pipeline.module, Classifier)
    with pytest.raises(ParameterInvalid, match="too many for kind=saliency"):
        saliency(pipeline, picture())
