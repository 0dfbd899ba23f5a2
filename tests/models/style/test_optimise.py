"""Gatys' optimisation: it gets somewhere, tells how far, and stops when told to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ParameterInvalid
from models.image import Image, resize
from models.style.losses import Perceptual, luma
from models.style.optimise import Step, optimise, recoloured, relit
from models.style.result import OptimiseOptions, steps_by_level
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
    costs = [step.content + 100 * step.style + 0.1 * step.variation + 3 * step.brightness for step in told]
    assert costs[-1] < 0.8 * costs[0]


def test_coarse_comes_before_fine(perceptual: Perceptual) -> None:
    told: list[Step] = []
    options = OptimiseOptions(steps=5, size=128, levels=2, preview_every=1)
    optimise(CONTENT, STYLE, perceptual, options, progress=told.append)
    sizes = [step.preview.shape[:2] for step in told if step.preview is not None]
    assert sizes == [(44, 64)] * 2 + [(88, 128)] * 3
    again = optimise(CONTENT, STYLE, perceptual, options)
    assert told[-1].preview is not None
    np.testing.assert_array_equal(told[-1].preview, again.pixels)


@pytest.mark.parametrize(
    ("size", "levels", "coarsest"), [(64, 1, 64), (256, 2, 128), (300, 2, 150), (512, 3, 128), (1024, 4, 128)]
)
def test_the_coarsest_level_has_128_to_255_pixels(size: int, levels: int, coarsest: int) -> None:
    assert OptimiseOptions(size=size).level_count == levels
    assert size >> (levels - 1) == coarsest


@given(st.integers(1, 1000), st.integers(1, 4))
def test_levels_share_the_steps(steps: int, levels: int) -> None:
    counts = steps_by_level(steps, levels)
    assert (len(counts), sum(counts)) == (levels, steps)
    assert max(counts) - min(counts) <= 1


def test_a_result_depends_on_the_seed_and_on_nothing_else_random(perceptual: Perceptual) -> None:
    def made(seed: int) -> np.ndarray:
        return optimise(CONTENT, STYLE, perceptual, OptimiseOptions(steps=3, size=64, seed=seed)).pixels

    np.testing.assert_array_equal(made(1), made(1))
    assert (made(1) != made(2)).any()


def test_coarse_brightness_is_the_contents(perceptual: Perceptual) -> None:
    """Between a painting's levels, in the order of the content's; a cost of its own keeps it so."""
    last: list[Step] = []
    for weight in (0.0, 30.0):
        options = OptimiseOptions(steps=30, size=96, levels=1, style_weight=100, brightness_weight=weight)
        told: list[Step] = []
        result = optimise(CONTENT, STYLE, perceptual, options, progress=told.append)
        last.append(told[-1])
    assert last[1].brightness < 0.3 * last[0].brightness
    grey = resize(CONTENT.pixels, result.height, result.width).mean(axis=2)
    assert np.corrcoef(grey.ravel(), result.pixels.mean(axis=2).ravel())[0, 1] > 0.9


def test_relit_has_the_brightness_of_the_other() -> None:
    one, like = (
        torch.from_numpy(part.pixels // 4 + 96).permute(2, 0, 1)[None].float() for part in (CONTENT, STYLE)
    )
    found, wanted, own = relit(one, like), luma(like), luma(one)
    assert np.corrcoef(found.flatten(), own.flatten())[0, 1] > 0.999  # no order changes
    assert found.mean().item() == pytest.approx(wanted.mean().item(), abs=0.5)
    assert found.std() < 1.01 * wanted.std()
    assert wanted.min() <= found.min() <= found.max() <= wanted.max()
    assert relit(torch.full((1, 3, 4, 4), 9.0), like).isfinite().all()


def test_a_light_face_in_a_dark_image_is_not_lost_in_white() -> None:
    dark = torch.full((1, 3, 20, 20), 10.0)
    dark[..., 8:12, 8:12] = torch.linspace(180, 250, 16).view(4, 4)  # far beyond the mean and the deviation
    like = torch.from_numpy(STYLE.pixels).permute(2, 0, 1)[None].float()
    face = relit(dark, like)[..., 8:12, 8:12].flatten()
    assert (face.diff() > 0).sum() >= 11  # the brightest hundredth, four pixels, may be clipped


def test_colors_are_kept(perceptual: Perceptual) -> None:
    """The colour differences are the content's; only brightness is painted."""

    def chroma(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(
            pixels - pixels.astype(float) @ np.array((0.299, 0.587, 0.114))[:, None].repeat(3, 1)
        )

    grey = Image(CONTENT.pixels // 3 + 80, CONTENT.width, CONTENT.height)  # nothing leaves the bytes' range
    options = OptimiseOptions(steps=6, size=70, levels=1, style_weight=20, preserve_color=True)
    kept = optimise(grey, STYLE, perceptual, options)
    apart = np.abs(chroma(kept.pixels) - chroma(grey.pixels))
    assert np.quantile(apart, 0.95) < 2  # clipped levels apart
    assert np.abs(kept.pixels.astype(int) - grey.pixels).mean() > 2
    free = optimise(grey, STYLE, perceptual, options.model_copy(update={"preserve_color": False}))
    assert np.abs(chroma(free.pixels) - chroma(grey.pixels)).mean() > 5 * apart.mean()


def test_recoloured_has_the_colors_of_the_other() -> None:
    """Mean and covariance by numpy; no level is clipped here."""
    one, like = (
        torch.from_numpy(part.pixels // 4 + 96).permute(2, 0, 1)[None].float() for part in (CONTENT, STYLE)
    )
    flat = recoloured(one, like)[0].flatten(1).numpy()
    wanted = like[0].flatten(1).numpy()
    np.testing.assert_allclose(flat.mean(axis=1), wanted.mean(axis=1), atol=0.05)
    np.testing.assert_allclose(np.cov(flat), np.cov(wanted), rtol=0.02, atol=2)
    even = torch.full((1, 3, 4, 4), 9.0)
    assert recoloured(even, like).isfinite().all()


def test_thin_pictures_are_painted_too(perceptual: Perceptual) -> None:
    result = optimise(image(3, 400), image(1, 1), perceptual, OptimiseOptions(steps=2, size=64))
    assert (result.height, result.width) == (32, 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", 0), ("steps", 1001), ("size", 63), ("size", 1025), ("style_size", 10), ("levels", 0)),
        *(
            ("style_weight", -1.0),
            ("content_weight", float("nan")),
            ("preview_every", -1),
            ("seed", -1),
            ("preserve_color", "maybe"),
        ),
    ],
)
def test_options_have_ranges(name: str, value: Any) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        OptimiseOptions.of({name: value})
    assert caught.value.parameter == name
