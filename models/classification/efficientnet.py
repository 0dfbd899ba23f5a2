"""EfficientNet-Lite0: the default classifier.

See `models/backbones/efficientnet_lite.py` for the network and its source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.backbones.efficientnet_lite import MEAN, PYRAMID, SCALE, ConvNorm, Trunk
from models.classification.pipeline import Classifier, ClassifierPipeline
from models.errors import WeightsError
from models.image import center_crop
from models.pipeline import Card, Task

if TYPE_CHECKING:
    from models.weights import Entry


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
    """The builder ``efficientnet_lite0``. Options: `size` (224) and `fraction` (0.875) of the centre crop.

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
