"""An image as Fourier coefficients: against numpy's transform, and what an optimiser does with it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.fourier import EDGE, FourierImage, colour_matrix, frequencies

SIDES = st.integers(1, 24)


def made(height: int, width: int, seed: int = 0) -> FourierImage:
    return FourierImage(height, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_it_is_the_inverse_transform_of_its_coefficients(height: int, width: int, seed: int) -> None:
    image = made(height, width, seed)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    rates = np.maximum(np.sqrt(y**2 + x**2), 1 / max(height, width))
    pairs = image.coefficients.detach().double().numpy()
    spectrum = (pairs[..., 0] + 1j * pairs[..., 1]) / rates
    planes = np.fft.irfft2(spectrum, (height, width), norm="ortho")
    levels = 1 / (1 + np.exp(-np.tensordot(colour_matrix().double().numpy(), planes, 1)))
    np.testing.assert_allclose(image().detach().numpy()[0], levels, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_an_image_comes_back(height: int, width: int, seed: int) -> None:
    given_ = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    expected = given_.clamp(EDGE, 1 - EDGE)
    torch.testing.assert_close(FourierImage.of(given_)(), expected, atol=2e-4, rtol=0)


def test_a_seed_decides_the_start() -> None:
    assert torch.equal(made(20, 30, 1)(), made(20, 30, 1)())
    assert not torch.equal(made(20, 30, 1)(), made(20, 30, 2)())


def test_the_start_is_nearly_grey_and_falls_off_as_photographs_do() -> None:
    image = made(128, 128)().detach()
    assert float((image - 0.5).abs().max()) < 0.2
    planes = torch.fft.rfft2(image[0].logit(), norm="ortho").abs().mean(0)
    rates = frequencies(128, 128)
    low, high = (planes[(rates > at) & (rates < 1.2 * at)].mean() for at in (0.04, 0.32))
    assert 6 < float(low / high) < 10  # eight times the frequency, an eighth of the amplitude


def test_colours_are_those_of_photographs() -> None:
    """Red, green and blue rise and fall together: the first axis holds most of the variance."""
    covariance = colour_matrix() @ colour_matrix().T
    deviations = covariance.diagonal().sqrt()
    correlation = covariance / deviations[:, None] / deviations
    assert float(correlation.min()) > 0.75
    torch.testing.assert_close(colour_matrix().norm(dim=0).max(), torch.tensor(1.0))


def test_an_optimiser_reaches_an_image() -> None:
    height, width = 24, 33
    y = torch.linspace(0.2, 0.8, height)[:, None].expand(-1, width)
    wanted = torch.stack([y, 1 - y, 0.5 * torch.ones(height, width)])[None]
    image = made(height, width)
    optimiser = torch.optim.Adam(image.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (image() - wanted).square().mean().backward()
        optimiser.step()
    assert float((image() - wanted).abs().mean().detach()) < 0.02
