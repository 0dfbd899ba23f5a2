"""The costs of style transfer, on features of EfficientNet-Lite0: content, style (Gram matrices), variation.

Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks" (CVPR 2016), equations 1
to 7, and Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style Transfer" (ECCV 2016,
https://arxiv.org/abs/1603.08155), section 3.2. Both costs are relative here, divided by the size of their
target: then a layer with large features, or a painting of strong contrast, weighs no more than another, and
one set of weights fits all paintings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.efficientnet_lite import MEAN, SCALE, Backbone

STYLE_TAPS = (-1, 1, 3, 5, 8, 11)
"""Layers whose Gram matrices are the style: the stem (-1) and blocks, of strides 2, 4, 8, 16, 16 and 32."""

CONTENT_TAP = 5
"""The block whose features are the content: stride 16."""

MARGIN = 8
"""Pixels by which images are mirrored before the backbone. It pads with zeros, so its features of
the outermost pixels are distorted, which an optimiser exploits: images got a coloured frame."""


def gram_matrix(features: Tensor) -> Tensor:
    """Correlations of channels, independent of position: Tensor[N, C, H, W] -> Tensor[N, C, C].

    Inner products of all pairs of channels, divided by H * W, so that images of different sizes compare.
    """
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def content_cost(features: Tensor, target: Tensor) -> Tensor:
    """Relative squared distance of features, Tensor[N, C, H, W] both -> Tensor[N], 0 where they are equal."""
    apart = (features - target).square().mean(dim=(1, 2, 3))
    return apart / target.square().mean(dim=(1, 2, 3)).clamp_min(1e-8)


def style_cost(grams: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Relative squared distance of Gram matrices, the mean over the layers.

    Args:
        grams: per layer Tensor[N, C, C].
        targets: of the paintings, likewise, or Tensor[1, C, C] for one painting.

    Returns:
        Tensor[N], 0 where they are equal.
    """
    layers = [
        (gram - target).square().sum(dim=(1, 2)) / target.square().sum(dim=(1, 2)).clamp_min(1e-8)
        for gram, target in zip(grams, targets, strict=True)
    ]
    return torch.stack(layers).mean(dim=0)


def total_variation(images: Tensor) -> Tensor:
    """Mean distance of neighbouring pixels, Tensor[N, 3, H, W] of bytes (0..255) -> Tensor[N], 0 to 2."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean(dim=(1, 2, 3))
    return (down + right) / 255


CELLS = 64
"""Along the longer side, of an image reduced to its coarse brightness: eyes and a mouth, but no stroke."""


def luma(images: Tensor) -> Tensor:
    """Brightness (ITU-R BT.601), Tensor[N, 3, H, W] -> Tensor[N, 1, H, W]."""
    return (images * torch.tensor((0.299, 0.587, 0.114))[:, None, None]).sum(dim=1, keepdim=True)


def coarse(brightness: Tensor) -> Tensor:
    """Tensor[N, 1, H, W] -> the same, reduced so that its longer side has `CELLS` pixels at most."""
    scale = min(1.0, CELLS / max(brightness.shape[2:]))
    size = [max(1, round(side * scale)) for side in brightness.shape[2:]]
    return F.interpolate(brightness, size, mode="bilinear", antialias=True)


def brightness_cost(images: Tensor, target: Tensor) -> Tensor:
    """Squared distance of coarse brightness, relative to its variance.

    Args:
        images: Tensor[N, 3, H, W], 0..255.
        target: Tensor[N or 1, 1, h, w], what `coarse` gave.

    Returns:
        Tensor[N], 0 where they are equal.
    """
    apart = (coarse(luma(images)) - target).square().mean(dim=(1, 2, 3))
    return apart / target.var(dim=(1, 2, 3)).clamp_min(1)  # levels: 1 is little


class Perceptual(nn.Module):
    """What the costs compare: the content's features and the style's Gram matrices.

    The backbone's first convolution has a stride of two, so it gets half of a pattern of every other pixel,
    and an optimiser may lower the losses with such patterns. Shifted by a pixel they raise them: an optimiser
    moves the image a little from step to step (`shift`), against dots and checkerboards.

    Args:
        backbone: with ImageNet's weights; it is frozen and put into eval mode.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)

    def forward(self, images: Tensor, shift: tuple[int, int] = (0, 0)) -> tuple[Tensor, list[Tensor]]:
        """Computes the features of images.

        Args:
            images: float Tensor[N, 3, H, W], RGB, 0..255.
            shift: pixels, 0 to `MARGIN`, by which the images are moved up and to the left.

        Returns:
            The content, Tensor[N, 80, h, w], and by layer the Gram matrices, Tensor[N, C, C].
        """
        maps = self.maps(images, STYLE_TAPS, shift)
        return maps[STYLE_TAPS.index(CONTENT_TAP)], [gram_matrix(map_) for map_ in maps]

    def content(self, images: Tensor, shift: tuple[int, int] = (0, 0)) -> Tensor:
        """The first part of `forward`, without the cost of the second."""
        return self.maps(images, (CONTENT_TAP,), shift)[0]

    def maps(self, images: Tensor, out_indices: Sequence[int], shift: tuple[int, int]) -> list[Tensor]:
        """The features of some layers (see `STYLE_TAPS`), in ascending order: Tensor[N, C, h, w] each."""
        down, right = shift
        margins = (MARGIN - right, MARGIN + right, MARGIN - down, MARGIN + down)
        mirrored = F.pad((images - MEAN) / SCALE, margins, mode="reflect")
        maps: list[Tensor] = self.backbone(mirrored, out_indices)
        return maps
