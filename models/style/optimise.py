"""One image in the manner of any painting, by optimising it: slow, but for any style.

Gatys, Ecker and Bethge (CVPR 2016), equation 7, on EfficientNet-Lite0's features (see `losses.py`); coarse
to fine as in Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer" (CVPR 2017), section 6:
large shapes are settled on a small image, which costs a quarter and reaches twice as far. What is optimised
is the image's Fourier coefficients in decorrelated colours (`models/fourier.py`): pixels give coloured
speckle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.fourier import FourierImage
from models.image import Image, Pixels, resize
from models.style.losses import (
    Perceptual,
    brightness_cost,
    coarse,
    content_cost,
    luma,
    style_cost,
    total_variation,
)
from models.style.result import OptimiseOptions, Stylized, steps_by_level

SMALLEST = 32  # pixels; the coarsest features in use have a stride of 32
RATE = 0.02
"""Of Adam, on Fourier coefficients, at the beginning of a level."""

DARK = 10.0
"""Of 255, the darkest level that a descent begins with, and 255 less it the brightest: those of
`FourierImage` hardly move where they are nearly 0 or 1."""

EXTREME = 0.01
"""Share of an image's pixels, of the darkest and of the brightest, that may be darker or brighter than all of
the painting."""

NOISE = 5.0
"""Standard deviation of the noise at the start, of 255 levels."""

PARTS = ("content", "style", "variation", "brightness")
"""The costs; the last keeps a face from being washed out: the content's features hardly see brightness."""

SHIFTS = ((0, 0), (1, 1), (0, 1), (1, 0))  # pixels, in turn: see `Perceptual`


@dataclass(frozen=True, slots=True)
class Step:
    """The progress of a job.

    Attributes:
        step: steps done, from 1.
        steps: how many there will be.
        content, style, variation, brightness: the costs before this step, without their weights.
        preview: uint8 [h, w, 3], the image as it is, or None at a step without a preview.
    """

    step: int
    steps: int
    content: float
    style: float
    variation: float
    brightness: float
    preview: Pixels | None


def optimise(
    content: Image,
    style: Image,
    perceptual: Perceptual,
    options: OptimiseOptions,
    *,
    progress: Callable[[Step], None] = lambda step: None,
) -> Stylized:
    """Paints the content in the manner of the style.

    Args:
        content, style: any sizes.
        perceptual: the network whose features the costs compare; may be shared by jobs of several threads.
        progress: called after every step; raises what ends the work.

    Returns:
        An image of the content's proportions whose longest side is `options.size`.
    """
    image, done = _resized(content, SMALLEST), 0
    for level, steps in enumerate(steps_by_level(options.steps, options.level_count), 1):
        halvings = options.level_count - level
        target = _resized(content, options.size >> halvings)
        painting = _resized(style, options.painting_size >> halvings)
        if options.preserve_color:
            painting = recoloured(painting, target)
        costs = _Costs(perceptual, target, painting, options)
        start = noisy(recoloured(target, painting), options.seed) if done == 0 else _enlarged(image, target)
        descent = _Descent(start, target if options.preserve_color else None, costs, steps)
        for _ in range(steps):
            parts = descent.step(done)
            done += 1
            shown = options.preview_every > 0 and done % options.preview_every == 0
            preview = _bytes(descent.image) if shown else None
            progress(Step(done, options.steps, *parts, preview))
        image = descent.image
    pixels = _bytes(image)
    return Stylized(pixels.shape[1], pixels.shape[0], pixels)


class _Costs:
    """The costs of an image against one content and one painting."""

    def __init__(
        self, perceptual: Perceptual, content: Tensor, painting: Tensor, options: OptimiseOptions
    ) -> None:
        self.perceptual = perceptual
        self.weights = torch.tensor([getattr(options, f"{part}_weight") for part in PARTS])
        self.brightness = coarse(relit(content, painting))
        with torch.no_grad():
            self.contents = [perceptual.content(content, shift) for shift in SHIFTS]
            self.grams = perceptual(painting)[1]

    def __call__(self, image: Tensor, step: int) -> Tensor:
        """Tensor[1, 3, H, W] -> Tensor[4]: `PARTS`."""
        turn = step % len(SHIFTS)
        features, grams = self.perceptual(image, SHIFTS[turn])
        costs = (
            content_cost(features, self.contents[turn]),
            style_cost(grams, self.grams),
            total_variation(image),
            brightness_cost(image, self.brightness),
        )
        return torch.cat(costs)


class _Descent:
    """Adam on the Fourier coefficients of one image.

    Args:
        start: float Tensor[1, 3, H, W], 0..255.
        chroma_of: of the same shape, the image whose colours are kept, or None.
        steps: over which the learning rate falls to nothing.
    """

    def __init__(self, start: Tensor, chroma_of: Tensor | None, costs: _Costs, steps: int) -> None:
        self.costs = costs
        self.levels = FourierImage.of(start.clamp(DARK, 255 - DARK) / 255)
        self.chroma = None if chroma_of is None else chroma_of - luma(chroma_of)
        self.optimiser = torch.optim.Adam(self.levels.parameters(), lr=RATE)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, max(1, steps), RATE / 20)

    def _image(self) -> Tensor:
        image: Tensor = self.levels() * 255
        return image if self.chroma is None else luma(image) + self.chroma

    @property
    def image(self) -> Tensor:
        """Tensor[1, 3, H, W], 0..255."""
        with torch.no_grad():
            return self._image().clamp(0, 255)

    def step(self, number: int) -> tuple[float, float, float, float]:
        """One step; the costs before it: `PARTS`."""
        parts = self.costs(self._image(), number)
        self.optimiser.zero_grad(set_to_none=True)
        (parts @ self.costs.weights).backward()
        self.optimiser.step()
        self.schedule.step()
        content, style, variation, brightness = parts.tolist()
        return content, style, variation, brightness


def relit(image: Tensor, like: Tensor) -> Tensor:
    """The brightness of an image with another's mean, and its deviation or, so that nothing of a light face
    is lost in white, as much of that as its range has room for.

    Tensor[1, 3, H, W], 0..255 -> Tensor[1, 1, H, W].
    """
    own, wanted = luma(image), luma(like)
    above, below = (own.quantile(share) - own.mean() for share in (1 - EXTREME, EXTREME))
    gain = min(
        wanted.std() / own.std().clamp_min(1),  # levels: 1 is little
        (wanted.max() - wanted.mean()) / above.clamp_min(1),
        (wanted.min() - wanted.mean()) / below.clamp_max(-1),
    )
    return (wanted.mean() + gain * (own - own.mean())).clamp(wanted.min(), wanted.max())


def recoloured(image: Tensor, like: Tensor) -> Tensor:
    """An image with the mean and the covariance of another's colours, Tensor[1, 3, H, W], 0..255.

    Gatys, Bethge, Hertzmann and Shechtman, "Preserving Color in Neural Artistic Style Transfer" (2016,
    https://arxiv.org/abs/1606.05897), section 4, by the symmetric root ("Image Analogies").
    """

    def moments(one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, square root of the covariance, and the root's inverse."""
        flat = one[0].flatten(1).double()
        values, vectors = torch.linalg.eigh(torch.cov(flat) + torch.eye(3))  # levels: 1 is little
        return flat.mean(dim=1, keepdim=True), *(
            vectors @ torch.diag(values**power) @ vectors.T for power in (0.5, -0.5)
        )

    mean, _, inverse = moments(image)
    wanted, root, _ = moments(like)
    flat = root @ inverse @ (image[0].flatten(1).double() - mean) + wanted
    return flat.float().clamp(0, 255).view_as(image)


def noisy(image: Tensor, seed: int) -> Tensor:
    """An image with a little noise, which decides where strokes come to lie: Tensor[1, 3, H, W], 0..255."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + NOISE * noise).clamp(0, 255)


def _resized(image: Image, longest: int) -> Tensor:
    """An image with this longest side, as float Tensor[1, 3, H, W], 0..255."""
    longest = max(longest, SMALLEST)
    scale = longest / max(image.width, image.height)
    height, width = (max(SMALLEST, round(side * scale)) for side in (image.height, image.width))
    pixels = resize(image.pixels, height, width, interpolation="bicubic")
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def _enlarged(image: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(image, like.shape[2:], mode="bicubic").clamp(0, 255)


def _bytes(image: Tensor) -> Pixels:
    pixels: Pixels = image[0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    return np.array(pixels)
