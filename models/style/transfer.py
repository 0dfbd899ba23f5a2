"""One small network that paints in many styles: a feed-forward transformer with conditional instance norms.

Johnson, Alahi and Fei-Fei (ECCV 2016, https://arxiv.org/abs/1603.08155) for the shape: down by four, residual
blocks, up again. Dumoulin, Shlens and Kudlur, "A Learned Representation For Artistic Style" (ICLR 2017,
https://arxiv.org/abs/1610.07629), section 2.2, for the styles: all weights are shared but for a scale and a
shift of every instance norm. Odena et al., "Deconvolution and Checkerboard Artifacts" (Distill 2016), for
enlarging by resizing before a convolution. The weights are made by `models/training/style/`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.efficientnet_lite import MEAN, SCALE
from models.checkpoint import load_state, read_state
from models.style.config import THUMBNAIL, StyleConfig, read_config

MARGIN = 8
"""Pixels, a multiple of the stride of 4, that are painted beyond every edge and cut off: the outermost two or
three come out discoloured, since what the network learnt from is padded with zeros."""

EPS = 1e-5
"""Added to a variance that is divided by."""


class ReflectConv(nn.Conv2d):
    """A convolution that mirrors the image beyond its edge, so that it paints no frame."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect")


class ResizeConv(nn.Module):
    """Doubles the resolution (bilinear), then convolves; computed at the low resolution.

    An enlarged map mixes neighbours in proportions that depend only on whether a row and a column are even or
    odd, so a kernel of 4m - 1 taps a side is, in each of the four cases, a kernel of 2m + 1 taps on the small
    map. The four results are interleaved: the same function (the mirrored edge apart), with less work and no
    map at the high resolution before its last.
    """

    fold: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        if kernel % 4 != 3:
            raise ValueError("the kernel must be 3, 7, 11, ...")
        self.weight = nn.Parameter(nn.Conv2d(inputs, outputs, kernel).weight.detach())  # its initial values
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.reach = (kernel + 1) // 4
        fold = torch.zeros(2, 2 * self.reach + 1, kernel)
        for parity in range(2):
            for tap in range(kernel):
                place, odd = divmod(parity + tap - kernel // 2, 2)
                fold[parity, self.reach + place, tap] += 0.75
                fold[parity, self.reach + place + (1 if odd else -1), tap] += 0.25
        self.register_buffer("fold", fold, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Tensor[N, inputs, h, w] -> Tensor[N, outputs, 2h, 2w]."""
        kernels, bias = self._kernels()
        padded = F.pad(inputs, (self.reach,) * 4, mode="reflect")
        return F.pixel_shuffle(F.conv2d(padded, kernels, bias), 2)

    def fixed(self) -> nn.Sequential:
        """The same function for good: its kernels are made once, not at each call."""
        kernels, bias = (one.detach() for one in self._kernels())
        convolution = ReflectConv(kernels.shape[1], kernels.shape[0], kernels.shape[2])
        convolution.load_state_dict({"weight": kernels, "bias": bias})
        return nn.Sequential(convolution, nn.PixelShuffle(2))

    def _kernels(self) -> tuple[Tensor, Tensor]:
        # [outputs, inputs, k, k] -> [outputs, row's parity, column's parity, inputs, small, small]
        kernels = torch.einsum("yak,xbl,oikl->oyxiab", self.fold, self.fold, self.weight).flatten(0, 2)
        return kernels, self.bias.repeat_interleave(4)


class ConditionalNorm(nn.Module):
    """Instance norm (Ulyanov et al., https://arxiv.org/abs/1607.08022); a scale and shift for each item."""

    def forward(self, inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Tensor[N, C, H, W], Tensor[N, C], Tensor[N, C] -> Tensor[N, C, H, W]."""
        normal = F.instance_norm(inputs, eps=EPS)
        return normal * scale[:, :, None, None] + shift[:, :, None, None]


class StyleNetwork(nn.Module):
    """The network; `forward` is for training, `ServedStyleNetwork` is served.

    Attributes:
        styles: Tensor[S, D], a style a row: the scales and shifts of all norms, one after another, and how
            much of the image's red, green and blue goes straight to the output. Adding a style is adding
            a row.
        widths: channels of the norms, in the order of the network; D is twice their sum and three.
    """

    whole = ("styles",)

    def __init__(self, config: StyleConfig) -> None:
        super().__init__()
        self.config = config
        half, quarter = config.channels
        self.stem = ReflectConv(3 * 4, half, 5)
        self.down = ReflectConv(half, quarter, 3, stride=2)
        self.blocks = nn.ModuleList(ReflectConv(quarter, quarter, 3) for _ in range(2 * config.blocks))
        self.up = ResizeConv(quarter, half, 3)
        self.out = ResizeConv(half, 3, 7)
        self.widths = (half, *[quarter] * (1 + 2 * config.blocks), half)
        self.norms = nn.ModuleList(ConditionalNorm() for _ in self.widths)
        plain = [torch.cat((torch.ones(width), torch.zeros(width))) for width in self.widths]
        # 2: through the sigmoid this is about the image itself, so a training begins with a likeness
        self.styles = nn.Parameter(torch.cat((*plain, torch.full((3,), 2.0))).repeat(len(config.styles), 1))

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Paints.

        Args:
            images: float Tensor[N, 3, H, W], RGB, 0..255, H and W multiples of 4.
            codes: Tensor[N, D], rows of `styles` or mixtures of them.

        Returns:
            Tensor[N, 3, H, W], 0..255.
        """
        affine_codes, through = codes.split([codes.shape[1] - 3, 3], dim=1)
        vectors = affine_codes.to(self.stem.weight.dtype).split(
            [w for w in self.widths for _ in range(2)], dim=1
        )
        affine = list(zip(self.norms, vectors[::2], vectors[1::2], strict=True))

        def normalised(index: int, hidden: Tensor) -> Tensor:
            norm, scale, shift = affine[index]
            result: Tensor = norm(hidden, scale, shift)
            return result

        inputs = (images - MEAN) / SCALE
        # the first layer takes squares of 2 x 2 pixels as 12 channels
        hidden = self.stem(F.pixel_unshuffle(inputs, 2).to(self.stem.weight.dtype))
        hidden = F.relu(normalised(0, hidden))
        hidden = F.relu(normalised(1, self.down(hidden)))
        for index in range(0, len(self.blocks), 2):
            inner = F.relu(normalised(2 + index, self.blocks[index](hidden)))
            hidden = hidden + normalised(3 + index, self.blocks[index + 1](inner))
        hidden = F.relu(normalised(len(affine) - 1, self.up(hidden)))
        return 255 * torch.sigmoid(self.out(hidden).float() + through[:, :, None, None] * inputs)


class ServedStyleNetwork(nn.Module):
    """The served network: every image of a batch carries the weights of its styles."""

    def __init__(self, network: StyleNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        for name, layer in self.network.named_children():
            if isinstance(layer, ResizeConv):
                setattr(self.network, name, layer.fixed())

    def forward(self, batch: Tensor) -> Tensor:
        """uint8 Tensor[N, H + 1, W, 3] -> uint8 Tensor[N, H, W, 3], RGB.

        The last row is no part of the image: its first bytes, red alone, are the weights of the styles (see
        `models/style/pipeline.py`).
        """
        styles = self.network.styles
        weights = batch[:, -1, : styles.shape[0], 0].to(styles.dtype)
        codes = (weights / weights.sum(dim=1, keepdim=True).clamp_min(1)) @ styles
        pixels = batch[:, :-1].permute(0, 3, 1, 2).to(styles.dtype)
        painted = self.network(F.pad(pixels, (MARGIN,) * 4, mode="reflect"), codes)
        inner = painted[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
        levels: Tensor = inner.round().clamp(0, 255).to(torch.uint8)
        return levels.permute(0, 2, 3, 1)


def save(network: StyleNetwork, path: Path) -> None:
    """Writes a network as safetensors, halved to float16; the styles' titles and thumbnails go with it."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().half().contiguous() for name, tensor in network.state_dict().items()}
    config = network.config
    for style in config.styles:
        if style.thumbnail:
            jpeg = np.frombuffer(style.thumbnail, np.uint8).copy()
            state[f"{THUMBNAIL}{style.name}"] = torch.from_numpy(jpeg)
    described = {
        "styles": [{"name": s.name, "title": s.title, "artist": s.artist} for s in config.styles],
        "channels": config.channels,
        "blocks": config.blocks,
    }
    save_file(state, path, metadata={"config": json.dumps(described)})


def load(path: Path) -> StyleNetwork:
    """Reads what `save` wrote: float32, in eval mode.

    Raises:
        WeightsError: the file is no such network.
    """
    config = read_config(path)
    state = {name: tensor for name, tensor in read_state(path).items() if not name.startswith(THUMBNAIL)}
    return load_state(StyleNetwork(config), state, path.name)
