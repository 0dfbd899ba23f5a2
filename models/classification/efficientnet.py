"""EfficientNet-Lite0, the default classifier, and its larger variants.

See `models/backbones/efficientnet_lite.py` for the network and its source.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn

from models.backbones.efficientnet_lite import Backbone, ConvNorm
from models.checkpoint import load_state, read_state

SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Factors of the channels and of the blocks, by variant; from `efficientnet_lite_builder.py` of
https://github.com/tensorflow/tpu."""


class EfficientNetLite(nn.Module):
    """The classifier: float Tensor[N, 3, S, S] (RGB, (byte - 127) / 128) -> logits Tensor[N, classes]."""

    whole = ("classify",)

    def __init__(self, classes: int = 1000, variant: str = "lite0") -> None:
        super().__init__()
        self.backbone = Backbone(*SCALES[variant])
        self.head = ConvNorm(self.backbone.channels, 1280)
        self.dropout = nn.Dropout(0.2)
        self.classify = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images).to(self.classify.weight.dtype)  # which is no narrower
        logits: Tensor = self.classify(self.dropout(maps.mean(dim=(2, 3))))
        return logits

    def trunk(self, images: Tensor) -> Tensor:
        """All but the pooling and the last layer -> Tensor[N, 1280, h, w]."""
        hidden: Tensor = self.head(self.backbone(images, (len(self.backbone.blocks) - 1,))[0])
        return hidden


# The published checkpoint's names -> those here.
_NAMES = (
    (r"^_conv_stem\.", "backbone.stem.conv."),
    (r"^_bn0\.", "backbone.stem.norm."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"backbone.blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"backbone.blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"backbone.blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"backbone.blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"backbone.blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"backbone.blocks.\1.project.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_fc\.", "classify."),
)


def load(path: Path, variant: str = "lite0") -> EfficientNetLite:
    """The network with the published ImageNet weights (``efficientnet-lite0-57934424.pth``), in eval mode.

    Raises:
        WeightsError: the file is not such a state dict.
    """
    state = {}
    for name, tensor in read_state(path).items():
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        state[name] = tensor
    classes = len(state["classify.bias"]) if "classify.bias" in state else 1000
    return load_state(EfficientNetLite(classes, variant), state, path.name, name=f"EfficientNet-{variant}")
