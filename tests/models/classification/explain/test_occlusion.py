"""Occlusion: which squares, at what cost, and the map against a plain average."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.classification.explain.occlusion import (
    MOST_PASSES,
    MOST_PIXELS,
    covered,
    losses,
    squares,
)
from models.errors import ParameterInvalid

SIDES = st.integers(1, 2000)


@settings(deadline=None)
@given(SIDES, SIDES, st.floats(0.001, 1))
def test_squares_cover_the_input_within_the_bounds(height: int, width: int, fraction: float) -> None:
    try:
        found = squares(height, width, fraction)
    except ParameterInvalid:
        return
    assert len(found) < MOST_PASSES
    assert (len(found) + 1) * height * width <= MOST_PIXELS
    rows, columns = np.zeros(height, int), np.zeros(width, int)
    for left, top, right, bottom in found:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert right - left == bottom - top
        rows[top:bottom] += 1
        columns[left:right] += 1
    assert rows.min() > 0
    assert columns.min() > 0


def test_too_many_squares_are_refused_by_the_parameter() -> None:
    with pytest.raises(ParameterInvalid, match="try a larger fraction") as caught:
        squares(224, 224, 0.05)
    assert caught.value.parameter == "fraction"
    assert len(squares(224, 224)) == 100


def test_a_square_hides_what_is_below_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    made = covered(pixels, (5, 2, 9, 6))
    mean = pixels.reshape(-1, 3).mean(0).round()
    np.testing.assert_array_equal(made[2:6, 5:9], np.broadcast_to(mean, (4, 4, 3)))
    made[2:6, 5:9] = pixels[2:6, 5:9]
    np.testing.assert_array_equal(made, pixels)


def test_the_map_is_the_mean_loss_of_the_squares_over_each_cell() -> None:
    height, width = 40, 56
    found = squares(height, width, 0.4)
    side = found[0][2] - found[0][0]
    lost = np.random.default_rng(1).uniform(-0.2, 0.5, len(found))
    cell = side // 4
    heat = losses(height, width, found, lost.tolist())
    expected = np.zeros_like(heat)
    for row in range(heat.shape[0]):
        for column in range(heat.shape[1]):
            over = [
                loss
                for (left, top, right, bottom), loss in zip(found, lost, strict=True)
                if left < (column + 1) * cell < right + cell and top < (row + 1) * cell < bottom + cell
            ]
            expected[row, column] = max(0.0, float(np.mean(over)))
    np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-6)


def test_where_nothing_is_lost_the_map_is_empty() -> None:
    found = squares(32, 32, 0.5)
    heat = losses(32, 32, found, [-0.1] * len(found))
    assert heat.dtype == np.float32
    assert not heat.any()
