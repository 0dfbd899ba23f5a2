"""Gatys' optimisation: it gets somewhere, tells how far, and stops when told to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.errors import ParameterInvalid
from models.style.losses import Perceptual
from models.style.optimise import Cancelled, Step, optimise
from models.style.result import OptimiseOptions
from tests.models.style.small import image, random_backbone

CONTENT, STYLE = image(48, 70, 1), image(60, 50, 2)


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return Perceptual(random_backbone())


def test_the_cost_falls(perceptual: Perceptual) -> None:
    options = OptimiseOptions(
        steps=16, size=64, levels=1, style_weight=100, variation_weight=0.1, preview_every=5
    )
    told: list[Step] = []
    result = optimise(CONTENT, STYLE, perceptual, options, progress=told.append)
    assert (result.width, result.height) == (64, 44)
    assert result.pixels.shape == (44, 64, 3)
    assert [(step.step, step.steps) for step in told] == [(index, 16) for index in range(1, 17)]
    assert [step.step for step in told if step.preview is not None] == [5, 10, 15]
    assert all(step.preview is None or step.preview.shape == (44, 64, 3) for step in told)
    costs = [step.content + 100 * step.style + 0.1 * step.variation for step in told]
    assert costs[-1] < 0.8 * costs[0]
    assert told[0].content == pytest.approx(0, abs=1e-6)  # it starts from the content


def test_coarse_comes_before_fine(perceptual: Perceptual) -> None:
    told: list[Step] = []
    options = OptimiseOptions(steps=5, size=128, levels=2, preview_every=1)
    optimise(CONTENT, STYLE, perceptual, options, progress=told.append)
    sizes = [step.preview.shape[:2] for step in told if step.preview is not None]
    assert sizes == [(44, 64)] * 2 + [(88, 128)] * 3
    again = optimise(CONTENT, STYLE, perceptual, options)
    assert told[-1].preview is not None
    np.testing.assert_array_equal(told[-1].preview, again.pixels)


def test_a_job_ends_between_two_steps(perceptual: Perceptual) -> None:
    told: list[Step] = []
    with pytest.raises(Cancelled):
        optimise(
            CONTENT,
            STYLE,
            perceptual,
            OptimiseOptions(steps=9, size=64),
            progress=told.append,
            cancelled=lambda: len(told) == 3,
        )
    assert len(told) == 3


def test_thin_pictures_are_painted_too(perceptual: Perceptual) -> None:
    result = optimise(image(3, 400), image(1, 1), perceptual, OptimiseOptions(steps=2, size=64))
    assert (result.height, result.width) == (32, 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", 0), ("steps", 1001), ("size", 63), ("size", 1025), ("style_size", 10), ("levels", 0)),
        *(("style_weight", -1.0), ("content_weight", float("nan")), ("preview_every", -1)),
    ],
)
def test_options_have_ranges(name: str, value: Any) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        OptimiseOptions.of({name: value})
    assert caught.value.parameter == name
