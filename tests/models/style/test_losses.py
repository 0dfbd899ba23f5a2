"""The costs of style transfer against slow readings of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.style.losses import (
    CELLS,
    CONTENT_TAP,
    MARGIN,
    STYLE_TAPS,
    Perceptual,
    brightness_cost,
    coarse,
    content_cost,
    gram_matrix,
    luma,
    style_cost,
    total_variation,
)
from tests.models.style.small import picture, random_backbone


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 5)] * 4), st.integers(0, 2**16), st.booleans())
def test_the_gram_matrix_is_the_sum_over_places(
    shape: tuple[int, int, int, int], seed: int, channels_last: bool
) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = shape
    slow = torch.zeros(count, channels, channels, dtype=torch.float64)
    for n in range(count):
        for i in range(channels):
            for j in range(channels):
                for y in range(height):
                    for x in range(width):
                        slow[n, i, j] += features[n, i, y, x] * features[n, j, y, x]
    torch.testing.assert_close(gram_matrix(features), slow / (height * width))


def test_the_gram_matrix_does_not_know_where() -> None:
    features = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    shuffled = features.flatten(2)[:, :, torch.randperm(64)].view_as(features)
    torch.testing.assert_close(gram_matrix(features), gram_matrix(shuffled))
    # nor how large the picture is
    torch.testing.assert_close(gram_matrix(features), gram_matrix(features.repeat(1, 1, 2, 3)))


def test_costs_are_relative_and_by_picture() -> None:
    features, target = torch.rand(2, 5, 4, 4) + 0.1, torch.rand(2, 5, 4, 4) + 0.1
    expected = ((features[1] - target[1]) ** 2).sum() / (target[1] ** 2).sum()
    torch.testing.assert_close(content_cost(features, target)[1], expected)
    torch.testing.assert_close(content_cost(9 * features, 9 * target), content_cost(features, target))
    assert content_cost(target, target).tolist() == [0, 0]

    grams, targets = [gram_matrix(features), gram_matrix(features[:, :2])], [torch.eye(5)[None], torch.eye(2)]
    slow = [((grams[0][0] - torch.eye(5)) ** 2).sum() / 5, ((grams[1][0] - torch.eye(2)) ** 2).sum() / 2]
    torch.testing.assert_close(style_cost(grams, [targets[0], targets[1][None]])[0], sum(slow) / 2)
    assert style_cost(grams, grams).tolist() == [0, 0]


def test_variation_is_the_distance_of_neighbours() -> None:
    flat, board = torch.full((3, 8, 8), 77.0), 255 * (torch.arange(8)[:, None] + torch.arange(8)) % 510
    ramp = torch.arange(8.0).expand(3, 8, 8)
    costs = total_variation(torch.stack((flat, board.expand(3, 8, 8).float(), ramp)))
    torch.testing.assert_close(costs, torch.tensor((0.0, 2.0, 1 / 255)))


def test_brightness_is_compared_in_large_parts() -> None:
    """Means of squares, of shades that are smooth in them; what is smaller than one counts for nothing."""
    side = 4 * CELLS
    down, right = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side // 2 * 1j]
    grey = torch.from_numpy(np.stack([128 + 60 * np.sin(5 * down + 3 * right)] * 3)[None]).float()
    means = grey.numpy()[0, 0].reshape(CELLS, 4, CELLS // 2, 4).mean(axis=(1, 3))
    small = coarse(luma(grey))
    np.testing.assert_allclose(small[0, 0, 1:-1, 1:-1], means[1:-1, 1:-1], atol=0.1)
    darker = grey - torch.tensor((20.0, 20, 20))[:, None, None]
    assert brightness_cost(darker, small).item() == pytest.approx(400 / means.var(), rel=0.02)
    board = torch.from_numpy((np.indices((side, side // 2)).sum(axis=0) % 2 * 2.0 - 1) * 40).float()
    assert brightness_cost(grey + board, small).item() < 1e-4
    assert coarse(grey[:, :1, : CELLS - 3, :9]).equal(grey[:, :1, : CELLS - 3, :9])  # never enlarged


def test_the_network_of_the_costs_sees_each_picture_alone_and_stays_as_it_is() -> None:
    perceptual = Perceptual(random_backbone())
    images = torch.from_numpy(np.stack([picture(64, 96, seed) for seed in (1, 2)])).permute(0, 3, 1, 2)
    images = images.float().requires_grad_()
    content, grams = perceptual(images)
    assert content.shape == (2, 80, (64 + 2 * MARGIN) // 16, (96 + 2 * MARGIN) // 16)
    assert [gram.shape[1] for gram in grams] == [32, 24, 40, 80, 112, 192]
    assert (len(STYLE_TAPS), CONTENT_TAP) == (6, 5)
    torch.testing.assert_close(perceptual.content(images), content)
    alone = perceptual(images[1:])
    torch.testing.assert_close(alone[0], content[1:], rtol=1e-4, atol=1e-4)
    assert content_cost(content, content).tolist() == style_cost(grams, grams).tolist() == [0, 0]
    assert content_cost(content[:1], content[1:]).item() > 0.1
    assert style_cost([gram[:1] for gram in grams], [gram[1:] for gram in grams]).item() > 1e-4

    (content.square().sum() + sum(gram.sum() for gram in grams)).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in perceptual.parameters())
    assert not perceptual.backbone.training


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (9, 100)])
def test_any_size_has_features(size: tuple[int, int]) -> None:
    content, grams = Perceptual(random_backbone())(torch.rand(1, 3, *size) * 255)
    assert content.isfinite().all()
    assert all(gram.isfinite().all() for gram in grams)
