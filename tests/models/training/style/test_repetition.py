"""The measure of repetition: what is stamped on a grid is found, what lies at random is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.image import Pixels
from models.style.transfer import load, save
from models.training.style import repetition as measured
from models.training.style.repetition import levels_cost, measure, plain_images, repetition, repetition_cost
from models.weights import COMMITTED
from tests.models.style.small import random_network

MOST_LEVELS = 12.0
"""Bar of what a served style may repeat on a plain image, standard deviation in levels."""


def stamped(at: np.ndarray, side: int = 256) -> Pixels:
    """One blot of 12 pixels at each place, on an even ground."""
    grey = np.full((side, side), 120.0)
    down, right = np.mgrid[-6:6, -6:6]
    blot = 90 * np.exp(-(down**2 + 2 * right**2) / 12) - 40 * np.exp(-((down - 3) ** 2 + right**2) / 6)
    for top, left in at:
        grey[top : top + 12, left : left + 12] += blot[: side - top, : side - left]
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


GRID = np.stack(np.meshgrid(np.arange(0, 240, 22), np.arange(0, 240, 26)), axis=-1).reshape(-1, 2)


def scattered(seed: int) -> Pixels:
    return stamped(np.random.default_rng(seed).integers(0, 244, (len(GRID), 2)))


@pytest.mark.parametrize("seed", range(3))
def test_a_stamp_on_a_grid_is_found_and_one_at_random_is_not(seed: int) -> None:
    grid, random = repetition(stamped(GRID)), repetition(scattered(seed))
    assert grid.peak > 0.75
    assert random.peak < 0.5
    assert random.levels < 0.6 * grid.levels


def test_a_faint_pattern_and_a_plain_image_are_not_judged() -> None:
    plain = np.full((200, 200, 3), 90, np.uint8)
    assert repetition(plain) == measured.Repetition(0, 0)
    faint = (stamped(GRID).astype(int) - 120) // 12 + 120
    assert repetition(faint.astype(np.uint8)) == measured.Repetition(0, 0)
    assert repetition(stamped(GRID)[:100, :90]).peak > 0  # smaller than a tile


def test_a_repeated_wave_has_its_own_strength() -> None:
    """A sine of 16 pixels is all repetition; its deviation is its amplitude by the root of two."""
    wave = 128 + 40 * np.sin(np.arange(256) * 2 * np.pi / 16)
    found = repetition(np.broadcast_to(wave[None, :, None], (256, 256, 3)).round().astype(np.uint8))
    assert found.peak == pytest.approx(1, abs=0.02)
    assert found.levels == pytest.approx(40 / np.sqrt(2), rel=0.05)


def test_the_cost_follows_the_measure_and_can_be_lowered() -> None:
    planes = [torch.from_numpy(each).permute(2, 0, 1)[None].float() for each in (stamped(GRID), scattered(0))]
    plain = torch.full_like(planes[0], 120)
    grid, random = (repetition_cost(each, plain).item() for each in planes)
    assert grid > 1.5 * random > 0
    assert repetition_cost(planes[0], planes[0]).item() < 0.1  # what the photo repeats itself is allowed
    noisy = (
        planes[0] + torch.randn(planes[0].shape, generator=torch.Generator().manual_seed(0))
    ).requires_grad_()
    repetition_cost(noisy, plain).sum().backward()
    assert noisy.grad is not None
    step = noisy.detach() - 4 * noisy.grad / noisy.grad.abs().max()
    assert repetition_cost(step, plain).item() < repetition_cost(noisy.detach(), plain).item()


def test_the_cost_of_levels_grows_with_contrast() -> None:
    """That of a sine of 16 pixels, whose levels `repetition` gives; as much as its variance."""
    wave = torch.sin(torch.arange(256) * 2 * torch.pi / 16).expand(1, 3, 256, 256)
    plain = torch.full((1, 3, 256, 256), 120.0)
    weak, strong = (levels_cost(plain + contrast * wave, plain).item() for contrast in (20, 40))
    assert strong == pytest.approx(4 * weak, rel=0.01)
    assert strong > 40**2 / 2 / 144  # a norm is no less than the maximum
    assert (
        levels_cost(plain + 40 * wave, plain + 40 * wave).item() < 0.1
    )  # what the photo repeats itself is allowed


def test_the_command_tells_every_style(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "styles.safetensors"
    save(random_network(), path)
    measured.main([str(path), "--size", "64"])
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        [f"| {image}", style] for image in ("sky", "wall") for style in ("dots", "lines", "waves")
    ]


def test_served_styles_do_not_stamp_plain_images() -> None:
    network = load(COMMITTED / "paintings.safetensors")
    found = measure(network, plain_images())
    assert {style for (_, style), one in found.items() if one.levels >= MOST_LEVELS} == set(), found
