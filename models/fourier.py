"""An image as what an optimiser changes: Fourier coefficients in decorrelated colours.

Gradient ascent on pixels favours high frequencies; on Fourier coefficients, each divided by its frequency, as
natural images have them, it moves large shapes and details alike, and channels of colour that are independent
in photographs keep it from saturated noise.

Mordvintsev, Pezzotti, Schubert and Olah, "Differentiable Image Parameterizations" (Distill 2018,
https://distill.pub/2018/differentiable-parameterizations); Olah, Mordvintsev and Schubert, "Feature
Visualization" (Distill 2017, https://distill.pub/2017/feature-visualization), "Preconditioning and
parameterization". The matrix of colours is that of their library Lucid (Apache-2.0), from ImageNet.
"""

from __future__ import annotations

from typing import Final, Self

import torch
from torch import Tensor, nn

COLOURS: Final = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""A square root of the covariance of ImageNet's colours: rows are red, green and blue, columns brightness,
yellow against blue, and green against magenta."""

DEVIATION: Final = 0.01
"""Of each coefficient of a random image; nearly grey."""

EDGE: Final = 1e-3
"""How near to 0 and to 1 a given image's levels may be: the coefficients of such levels are infinite."""


def colour_matrix() -> Tensor:
    """Decorrelated colours -> RGB, float Tensor[3, 3]; `COLOURS` with its longest column of length 1."""
    colours = torch.tensor(COLOURS)
    scaled: Tensor = colours / colours.norm(dim=0).max()
    return scaled


def frequencies(height: int, width: int) -> Tensor:
    """Of the coefficients of a real image, in cycles per pixel: float Tensor[height, width // 2 + 1]."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])


class FourierImage(nn.Module):
    """One image, whose only parameter is its coefficients.

    Args:
        height, width: pixels.
        generator: of a random start; None: torch's own.

    Attributes:
        coefficients: float Tensor[3, height, width // 2 + 1, 2], real and imaginary, before the division.
    """

    gains: Tensor
    colours: Tensor

    def __init__(self, height: int, width: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.height, self.width = height, width
        rates = frequencies(height, width).clamp_min(1 / max(height, width))
        self.register_buffer("gains", 1 / rates)
        self.register_buffer("colours", colour_matrix())
        start = DEVIATION * torch.randn(3, *rates.shape, 2, generator=generator)
        self.coefficients = nn.Parameter(start)

    @classmethod
    def of(cls, image: Tensor) -> Self:
        """An image that there is already, float Tensor[1, 3, H, W], RGB, 0..1.

        `forward` gives it back, but for levels nearer than `EDGE` to 0 or 1.
        """
        made = cls(*image.shape[2:])
        levels = image[0].detach().clamp(EDGE, 1 - EDGE).logit()
        inverse = torch.linalg.inv(made.colours)
        independent = torch.einsum("oc,chw->ohw", inverse, levels)
        spectrum = torch.fft.rfft2(independent, norm="ortho") / made.gains
        with torch.no_grad():
            made.coefficients.copy_(torch.view_as_real(spectrum))
        return made

    def forward(self) -> Tensor:
        """The image, float Tensor[1, 3, height, width], RGB, over 0 and under 1."""
        spectrum = torch.view_as_complex(self.coefficients) * self.gains
        independent = torch.fft.irfft2(spectrum, s=(self.height, self.width), norm="ortho")
        return torch.einsum("oc,chw->ohw", self.colours, independent).sigmoid()[None]
