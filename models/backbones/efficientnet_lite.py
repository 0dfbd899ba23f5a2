"""EfficientNet-Lite without its head: backbone of the classifiers, the detector and the style losses.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019,
https://arxiv.org/abs/1905.11946), table 1; the Lite variant drops squeeze-and-excitation and has ReLU6 for
swish, and keeps stem and head at their width and the first and the last stage at their depth
(https://github.com/tensorflow/tpu, efficientnet/lite).
The weights were converted from TensorFlow, so strided convolutions pad as TensorFlow does, more at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

MEAN, SCALE = 127.0, 128.0  # of a byte: the network sees (x - 127) / 128
PYRAMID = (4, 10, 15)  # of Lite0: the last blocks of strides 8, 16 and 32
PYRAMID_CHANNELS = (40, 112, 320)

# expansion, kernel, stride of the first, channels, repeats: the rows of table 1
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class ConvNorm(nn.Sequential):
    """Convolution with TensorFlow's "same" padding, batch norm, and ReLU6 unless disabled."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0  # strided: padded in forward, by the input's parity
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.activation = nn.ReLU6(inplace=True) if activate else nn.Identity()
        self.kernel, self.stride = kernel, stride

    def forward(self, inputs: Tensor) -> Tensor:
        """Tensor[N, C, H, W] -> Tensor[N, outputs, ceil(H / stride), ceil(W / stride)]."""
        if self.stride > 1:
            inputs = F.pad(inputs, (*self._same(inputs.shape[3]), *self._same(inputs.shape[2])))
        return self.activation(self.norm(self.conv(inputs)))  # type: ignore[no-any-return]

    def _same(self, size: int) -> tuple[int, int]:
        total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """MBConv without squeeze-and-excitation: widen, convolve by channel, narrow, add (if shapes allow)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvNorm(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, outputs, activate=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        """Tensor[N, inputs, H, W] -> Tensor[N, outputs, ceil(H / stride), ceil(W / stride)]."""
        outputs: Tensor = self.project(self.depthwise(self.expand(inputs)))
        return outputs + inputs if self.residual else outputs


def scaled(channels: int, width: float) -> int:
    """Channels times `width`, to the nearest multiple of 8 that is not more than a tenth below."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


class Backbone(nn.Module):
    """The stem and the blocks, sixteen of Lite0.

    Args:
        width: factor of the channels.
        depth: factor of the blocks of a stage, but for the first and the last one.

    Attributes:
        channels: of the last block.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        inputs = 32
        for index, (expansion, kernel, stride, channels, least) in enumerate(STAGES):
            outputs = scaled(channels, width)
            repeats = least if index in (0, len(STAGES) - 1) else math.ceil(least * depth)
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(inputs, outputs, expansion, kernel, stride if repeat == 0 else 1)
                )
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.channels = inputs

    def forward(self, images: Tensor, out_indices: Sequence[int] = PYRAMID) -> list[Tensor]:
        """Feature maps of chosen blocks, in the order of the network; nothing behind the last one is run.

        Args:
            images: float Tensor[N, 3, H, W], RGB, (byte - 127) / 128.
            out_indices: rising block indices; -1 is the stem. The default gives Lite0's pyramid of strides 8,
                16 and 32 (`PYRAMID_CHANNELS` channels).
        """
        maps: list[Tensor] = []
        hidden = self.stem(images)
        if -1 in out_indices:
            maps.append(hidden)
        for index, block in enumerate(self.blocks[: max(out_indices) + 1]):
            hidden = block(hidden)
            if index in out_indices:
                maps.append(hidden)
        return maps
