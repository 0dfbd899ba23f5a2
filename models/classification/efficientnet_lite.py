"""EfficientNet-Lite0: the default classifier, and the trunk of our detector and of style transfer.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019,
https://arxiv.org/abs/1905.11946), table 1; the Lite variant drops squeeze-and-excitation and has ReLU6 for
swish, and keeps stem and head at their width (https://github.com/tensorflow/tpu, efficientnet/lite).
The weights were converted from TensorFlow, so strided convolutions pad as TensorFlow does, more at the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classification.pipeline import Classifier, ClassifierPipeline
from models.errors import WeightsError
from models.image import center_crop
from models.pipeline import Card, Task

if TYPE_CHECKING:
    from models.weights import Entry

MEAN, SCALE = 127.0, 128.0  # of a byte: the network sees (x - 127) / 128
PYRAMID = (4, 10, 15)  # the last blocks of strides 8, 16 and 32
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
    """Convolution with TensorFlow's "same" padding, batch norm, and ReLU6 unless told otherwise."""

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


class Trunk(nn.Module):
    """The stem and the sixteen blocks; `stages[0]` is the stem, `stages[i + 1]` block i."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        inputs = 32
        for expansion, kernel, stride, outputs, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(inputs, outputs, expansion, kernel, stride if repeat == 0 else 1)
                )
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor, taps: Sequence[int] = PYRAMID) -> list[Tensor]:
        """Feature maps of chosen blocks, in the order of the network; nothing behind the last one is run.

        Args:
            images: float Tensor[N, 3, H, W], RGB, (byte - 127) / 128.
            taps: rising block indices, 0 to 15; -1 is the stem. The default gives the pyramid of strides
                8, 16 and 32 (`PYRAMID_CHANNELS` channels).
        """
        maps: list[Tensor] = []
        hidden = self.stem(images)
        if -1 in taps:
            maps.append(hidden)
        for index, block in enumerate(self.blocks[: max(taps) + 1]):
            hidden = block(hidden)
            if index in taps:
                maps.append(hidden)
        return maps


class EfficientNetLite0(nn.Module):
    """The classifier: float Tensor[N, 3, 224, 224] (RGB, (byte - 127) / 128) -> logits Tensor[N, 1000]."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = ConvNorm(320, 1280)
        self.dropout = nn.Dropout(0.2)
        self.classify = nn.Linear(1280, classes)

    def features(self, images: Tensor, taps: Sequence[int] = PYRAMID) -> list[Tensor]:
        """See `Trunk.forward`."""
        maps: list[Tensor] = self.trunk(images, taps)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.head(self.features(images, (15,))[0])
        logits: Tensor = self.classify(self.dropout(hidden.mean(dim=(2, 3))))
        return logits


# The published checkpoint's names -> ours.
_NAMES = (
    (r"^_conv_stem\.", "trunk.stem.conv."),
    (r"^_bn0\.", "trunk.stem.norm."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"trunk.blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"trunk.blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"trunk.blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"trunk.blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"trunk.blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"trunk.blocks.\1.project.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_fc\.", "classify."),
)


def load(path: Path) -> EfficientNetLite0:
    """The network with the published ImageNet weights (``efficientnet-lite0-57934424.pth``), in eval mode.

    Raises:
        WeightsError: the file is not such a state dict.
    """
    try:
        published: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        state = {}
        for name, tensor in published.items():
            for pattern, ours in _NAMES:
                name = re.sub(pattern, ours, name)
            state[name] = tensor
        network = EfficientNetLite0(classes=len(state["classify.bias"]))
        network.load_state_dict(state)
    except Exception as error:  # torch raises many kinds for a file that is not what it should be
        raise WeightsError(
            f"{path.name} is no EfficientNet-Lite0 checkpoint: {type(error).__name__}"
        ) from error
    return network.eval()


def build(entry: Entry, files: Mapping[str, Path]) -> ClassifierPipeline:
    """The zoo's builder. Options: `size` (224) and `fraction` (0.875) of the centre crop.

    Labels come from the file of the role "labels" (one a line) where the entry has one, else they are
    ImageNet's, as torchvision's weights name them.

    Raises:
        WeightsError: `load`'s, or there are more or fewer labels than classes.
    """
    size, fraction = int(entry.options.get("size", 224)), float(entry.options.get("fraction", 0.875))
    network, labels = load(files["weights"]), _labels(files)
    if len(labels) != network.classify.out_features:
        raise WeightsError(
            f"{len(labels)} labels, but the network has {network.classify.out_features} classes"
        )
    card = Card(
        name=entry.name,
        task=Task.CLASSIFY,
        licence=entry.licence,
        sha256=entry.files["weights"].sha256,
        labels=labels,
        input=(size, size),
        details={"architecture": "EfficientNet-Lite0", "crop_fraction": fraction},
    )
    module = Classifier(network, mean=(MEAN,), scale=(SCALE,))
    # the crop is `fraction` of the shorter side: a picture may shrink until that part still fills `size`
    return ClassifierPipeline(
        card, module, partial(center_crop, size=size, fraction=fraction), min_side=-int(-size // fraction)
    )


def _labels(files: Mapping[str, Path]) -> tuple[str, ...]:
    if "labels" in files:
        return tuple(files["labels"].read_text(encoding="utf-8").splitlines())
    from torchvision.models import EfficientNet_B0_Weights

    return tuple(EfficientNet_B0_Weights.DEFAULT.meta["categories"])
