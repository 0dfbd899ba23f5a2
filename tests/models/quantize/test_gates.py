"""The figures that decide whether a precision is served."""

from __future__ import annotations

import numpy as np
import pytest

from models.image import Image
from models.pipeline import Kind
from models.quantize.gates import GATES, Gate, Judged, ssim, table, views
from models.weights import Catalogue


def test_a_gate_includes_its_bound() -> None:
    assert Gate("x", least=97.5).passed(97.5)
    assert not Gate("x", least=97.5).passed(97.49)
    assert Gate("x", most=0.05).passed(0.05)
    assert not Gate("x", most=0.05).passed(0.0501)


def test_every_kind_of_model_has_gates() -> None:
    assert set(GATES) == set(Kind)


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """By the definition: every window by itself, one channel."""
    axis = np.arange(-5, 6)
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (one[top : top + 11, left : left + 11].astype(float) for one in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 6.5025, 58.5225
            found.append(
                (2 * mean_a * mean_b + c1)
                * (2 * both + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(found))


def test_ssim_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (20, 24, 3), np.uint8)
    other = np.clip(one.astype(int) + rng.integers(-40, 40, one.shape), 0, 255).astype(np.uint8)
    wanted = np.mean([slow_ssim(one[..., c], other[..., c]) for c in range(3)])
    assert ssim(one, other) == pytest.approx(wanted, abs=1e-6)
    assert ssim(one, one) == pytest.approx(1)


def test_four_views_of_an_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 50, 3), np.uint8)
    whole, mirrored, middle, middle_mirrored = views(Image(pixels, 50, 100))
    np.testing.assert_array_equal(mirrored.pixels[:, ::-1], whole.pixels)
    assert (middle.width, middle.height) == (40, 80)
    np.testing.assert_array_equal(middle_mirrored.pixels, pixels[10:90, 44:4:-1])


def test_the_table_has_each_figure_with_its_gate() -> None:
    row = Judged("m", "int8", "2 images", {"top-1, points": -0.6, "equal labels, %": 98.0}, False)
    text = table([row])
    assert text.startswith("| model ")
    assert "top-1, points -0.6 (≥ -0.5); equal labels, % +98 (≥ 97.5) | **no** |" in text


def test_what_the_catalogue_names_is_known() -> None:
    for entry in Catalogue():
        assert len(set(entry.precisions)) == len(entry.precisions)
