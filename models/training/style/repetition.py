"""How much a style network repeats itself on plain parts of photographs: by autocorrelation.

    python -m models.training.style.repetition models/weights/paintings.safetensors --images sky.jpg wall.jpg

A network that is to put a whole painting's statistics into a plain sky stamps one detail all over it, at even
distances. The autocorrelation of such an image has peaks at these distances, that of irregular strokes has
none. Without `--images` it is measured on two made ones, a sky and a wall.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.image import Pixels, decode
from models.style.transfer import StyleNetwork, load
from models.training.style.sheet import painted, scaled

TILE = 128
"""Pixels, side of the squares that are judged one by one: a pattern covers a part of an image, and drifts."""

NEAREST = 10
"""Pixels; what repeats at less is a texture, as of paper or of a canvas."""

AROUND = 5
"""Pixels; a peak of the autocorrelation is higher than all else within these."""

SMOOTH = 16.0
"""Pixels, standard deviation: shading that varies more slowly than this is no pattern."""

FAINT = 4.0
"""Levels, standard deviation: a tile that varies less is not judged, since it is not visible."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """How far an image repeats itself.

    Attributes:
        peak: the highest peak of a tile's autocorrelation at `NEAREST` pixels or more; 1 where a tile is the
            same thing over and over, some 0.2 to 0.3 where strokes lie at random, 0 where no tile is judged.
        levels: of all tiles the largest standard deviation of what is repeated, the root of the covariance at
            that peak, in levels of 255.
    """

    peak: float
    levels: float


def repetition(pixels: Pixels) -> Repetition:
    """Judges an image, uint8 [h, w, 3]."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float64)
    grey -= cv2.GaussianBlur(grey, (0, 0), SMOOTH)
    side = min(TILE, *grey.shape)
    distance, pairs = _lags(side)
    far = (distance >= NEAREST) & (distance <= side // 2 - AROUND)
    peak = levels = 0.0
    for top in range(0, grey.shape[0] - side + 1, side // 2):
        for left in range(0, grey.shape[1] - side + 1, side // 2):
            tile = grey[top : top + side, left : left + side]
            spectrum = (
                np.abs(np.fft.rfft2(tile - tile.mean(), (2 * side, 2 * side))) ** 2
            )  # no edge wraps around
            sums = np.fft.fftshift(np.fft.irfft2(spectrum, (2 * side, 2 * side)))
            covariance = _middle(sums, side) / pairs
            if (variance := float(tile.var())) < FAINT**2:
                continue
            # the length of single strokes makes a slope around the middle, and no peak
            around = cv2.dilate(covariance, np.ones((2 * AROUND + 1, 2 * AROUND + 1)))
            repeated = float(covariance[far & (covariance >= around)].max(initial=0.0))
            peak, levels = max(peak, repeated / variance), max(levels, repeated**0.5)
    return Repetition(peak, levels)


def repetition_cost(painted: Tensor, content: Tensor) -> Tensor:
    """What training lowers so that `repetition` is low: Tensor[N, 3, H, W] of 0..255.

    The autocorrelation of tiles where it is higher than that of the image that was painted, by a norm that is
    nearly its maximum; contrasts of a few levels count for little.

    Returns:
        Tensor[N], about 0 to 1.
    """
    with torch.no_grad():
        own = _correlation(content)
    excess = (_correlation(painted) - own.clamp_min(0)).clamp_min(0).flatten(3)
    norm: Tensor = (excess.pow(6).sum(dim=3) + 1e-9) ** (1 / 6)
    return norm.mean(dim=(1, 2))


def levels_cost(painted: Tensor, content: Tensor, bar: float = 12.0) -> Tensor:
    """As `repetition_cost`, of the strength in place of the shape: what is repeated, in levels, over `bar`.

    A pattern may fade away or come apart; tiles lie as densely as `repetition` has them.

    Returns:
        Tensor[N], squared: 1 where what is repeated has a standard deviation of `bar` levels in every tile.
    """
    with torch.no_grad():
        own, _ = _covariance(content, TILE // 2)
    excess = (_covariance(painted, TILE // 2)[0] - own.clamp_min(0)).clamp_min(0).flatten(3) / bar**2
    norm: Tensor = (excess.pow(6).sum(dim=3) + 1e-9) ** (1 / 6)
    return norm.mean(dim=(1, 2))


def _correlation(images: Tensor) -> Tensor:
    """Of tiles side by side, at the distances that count, Tensor[N, rows, columns, lags down, lags right]."""
    covariance, variance = _covariance(images, TILE)
    correlation: Tensor = covariance / (variance + (2 * FAINT) ** 2)
    return correlation


def _covariance(images: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Of tiles that begin every `step` pixels, at the distances that count, as `_correlation`; and their
    variance, Tensor[N, rows, columns, 1, 1]."""
    grey = images.float().mean(dim=1, keepdim=True)
    box = 2 * int(1.7 * SMOOTH) + 1  # as wide as the Gaussian
    blurred = grey
    for shape in ((box, 1), (1, box)):
        pads = (shape[0] // 2, shape[1] // 2)
        blurred = F.avg_pool2d(blurred, shape, 1, pads, count_include_pad=False)
    side = min(TILE, *grey.shape[2:])
    tiles = (grey - blurred)[:, 0].unfold(1, side, min(step, side)).unfold(2, side, min(step, side))
    tiles = tiles - tiles.mean(dim=(3, 4), keepdim=True)
    spectrum = torch.fft.rfft2(tiles, s=(2 * side, 2 * side))
    power = spectrum.real.square() + spectrum.imag.square()
    sums = torch.fft.fftshift(torch.fft.irfft2(power), dim=(3, 4))
    distance, pairs = _lags(side)
    far = (distance >= NEAREST) & (distance <= side // 2 - AROUND)
    weights = torch.from_numpy(far / pairs).float()
    return _middle(sums, side) * weights, tiles.square().mean(dim=(3, 4), keepdim=True)


def _lags(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of a square tile, by distance down and right, none in the middle: the distance, pixels, and how many
    pairs of pixels have it."""
    rows, columns = np.mgrid[-(side // 2) : side // 2 + 1, -(side // 2) : side // 2 + 1]
    return np.hypot(rows, columns), (side - np.abs(rows)) * (side - np.abs(columns)).astype(np.float64)


def _middle(sums: Any, side: int) -> Any:
    """Of an array or a tensor [..., 2 * side, 2 * side], what `_lags` is about."""
    inner = slice(side - side // 2, side + side // 2 + 1)
    return sums[..., inner, inner]


def plain_images(side: int = 512) -> Mapping[str, Pixels]:
    """A made sky and a made wall, uint8 [side, side, 3] each: shaded, with a camera's noise."""
    random = np.random.default_rng(0)
    down, right = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    sky = np.stack([110 + 90 * down, 150 + 60 * down, 215 + 20 * down], axis=2)
    wall = np.array((196.0, 184.0, 160.0)) - 40 * np.hypot(down - 0.3, right - 0.4)[..., None]
    made = {"sky": sky, "wall": wall}
    noise: NDArray[np.float64] = random.normal(0, 2, (side, side, 1))
    return {name: (image + noise).round().clip(0, 255).astype(np.uint8) for name, image in made.items()}


def measure(
    network: StyleNetwork, images: Mapping[str, Pixels], side: int = 512
) -> dict[tuple[str, str], Repetition]:
    """`repetition` of images in every style, painted as the service does.

    Args:
        network: in eval mode.
        images: uint8 [h, w, 3] each, by name; scaled to `side` pixels.

    Returns:
        By image and style.
    """
    found = {}
    for name, pixels in images.items():
        image = scaled(pixels, side)
        for style in network.config.styles:
            found[name, style.name] = repetition(painted(network, image, style.name))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m models.training.style.repetition", description=main.__doc__
    )
    parser.add_argument("weights", type=Path, help="of `models.training.style`")
    parser.add_argument("--images", type=Path, nargs="+", help="plain ones: a sky, a wall")
    parser.add_argument("--size", type=int, default=512, help="longest side, pixels")
    options = parser.parse_args(arguments)
    images = plain_images(options.size)
    if options.images is not None:
        images = {path.stem: decode(path.read_bytes()).pixels for path in options.images}
    print("| image | style | highest peak | repeated, levels |\n| --- | --- | --- | --- |")
    for (image, style), found in measure(load(options.weights), images, options.size).items():
        print(f"| {image} | {style} | {found.peak:.2f} | {found.levels:.1f} |")


if __name__ == "__main__":
    main()
