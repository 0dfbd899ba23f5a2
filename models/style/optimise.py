"""One image in the manner of any painting, by optimising its pixels: slow, but for any style.

Gatys, Ecker and Bethge (CVPR 2016), equation 7, on EfficientNet-Lite0's features (see `losses.py`); coarse
to fine as in Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer" (CVPR 2017), section 6:
large shapes are settled on a small image, which costs a quarter and reaches twice as far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import ModelError
from models.image import Image, Pixels, resize
from models.style.losses import Perceptual, content_cost, style_cost, total_variation
from models.style.result import OptimiseOptions, Stylized

SMALLEST = 32  # pixels; the coarsest features in use have a stride of 32
SHIFTS = ((0, 0), (1, 1), (0, 1), (1, 0))  # pixels, in turn: see `Perceptual`


@dataclass(frozen=True, slots=True)
class Step:
    """The progress of a job.

    Attributes:
        step: steps done, from 1.
        steps: how many there will be.
        content, style, variation: the costs before this step, without their weights.
        preview: uint8 [h, w, 3], the image as it is, or None at a step without a preview.
    """

    step: int
    steps: int
    content: float
    style: float
    variation: float
    preview: Pixels | None


class Cancelled(ModelError):
    """The job was cancelled between two steps."""


def optimise(
    content: Image,
    style: Image,
    perceptual: Perceptual,
    options: OptimiseOptions | None = None,
    *,
    progress: Callable[[Step], None] = lambda step: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Stylized:
    """Paints the content in the manner of the style.

    Args:
        content, style: any sizes.
        perceptual: the network whose features the costs compare; may be shared by jobs of several threads.
        progress: called after every step.
        cancelled: called before every step.

    Returns:
        An image of the content's proportions whose longest side is `options.size`.

    Raises:
        Cancelled: `cancelled` returned true.
    """
    options = options or OptimiseOptions()
    painting_size = options.style_size or options.size * 3 // 2
    image = _resized(content, SMALLEST)
    done = 0
    for level in reversed(range(options.levels)):
        target = _resized(content, options.size >> level)
        costs = _Costs(perceptual, target, _resized(style, painting_size >> level), options)
        start = target if done == 0 else _enlarged(image, target)
        descent = _Descent(start, costs)
        for _ in range((options.steps - done) // (level + 1)):  # as many steps on every level
            if cancelled():
                raise Cancelled("the job was cancelled")
            parts = descent.step(done)
            done += 1
            shown = options.preview_every > 0 and done % options.preview_every == 0
            preview = _bytes(descent.image) if shown else None
            progress(Step(done, options.steps, *parts, preview))
        image = descent.image
    pixels = _bytes(image)
    return Stylized(pixels.shape[1], pixels.shape[0], pixels)


class _Costs:
    """The three costs of an image against one content and one painting."""

    def __init__(
        self, perceptual: Perceptual, content: Tensor, painting: Tensor, options: OptimiseOptions
    ) -> None:
        self.perceptual = perceptual
        self.weights = torch.tensor((options.content_weight, options.style_weight, options.variation_weight))
        with torch.no_grad():
            self.contents = [perceptual.content(content, shift) for shift in SHIFTS]
            self.grams = perceptual(painting)[1]

    def __call__(self, image: Tensor, step: int) -> Tensor:
        """Tensor[1, 3, H, W] -> Tensor[3]: content, style, variation."""
        turn = step % len(SHIFTS)
        features, grams = self.perceptual(image, SHIFTS[turn])
        costs = (
            content_cost(features, self.contents[turn]),
            style_cost(grams, self.grams),
            total_variation(image),
        )
        return torch.cat(costs)


class _Descent:
    """Adam on one image's pixels, which stay within 0..1."""

    def __init__(self, start: Tensor, costs: _Costs) -> None:
        self.costs = costs
        self.levels = (start / 255).clone().requires_grad_()
        self.optimiser = torch.optim.Adam([self.levels], lr=0.02)

    @property
    def image(self) -> Tensor:
        """Tensor[1, 3, H, W], 0..255."""
        return self.levels.detach() * 255

    def step(self, number: int) -> tuple[float, float, float]:
        """One step; the costs before it: content, style, variation."""
        parts = self.costs(self.levels * 255, number)
        self.optimiser.zero_grad(set_to_none=True)
        (parts @ self.costs.weights).backward()
        self.optimiser.step()
        with torch.no_grad():
            self.levels.clamp_(0, 1)
        content, style, variation = parts.tolist()
        return content, style, variation


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
