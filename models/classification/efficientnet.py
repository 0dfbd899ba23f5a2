"""EfficientNet-Lite0, the default classifier, and its larger variants.

See `models/backbones/efficientnet_lite.py` for the network and its source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from models.backbones.efficientnet_lite import MEAN, PYRAMID, SCALE, Backbone, ConvNorm
from models.checkpoint import load_state, read_labels, read_state
from models.classification.pipeline import Classifier, ClassifierPipeline
from models.errors import WeightsError
from models.image import center_crop
from models.options import check_choice, check_range, read_options
from models.pipeline import Kind, WeightsFile

if TYPE_CHECKING:
    from models.weights import Entry


@dataclass(frozen=True, slots=True)
class Variant:
    """A size of the network.

    Attributes:
        width, depth: factors of the channels and the blocks.
        size: side of the input, pixels.
    """

    width: float
    depth: float
    size: int

    @property
    def fraction(self) -> float:
        """Of the image that the weights were evaluated on: all but 32 pixels around the input."""
        return self.size / (self.size + 32)


VARIANTS = {
    "lite0": Variant(1.0, 1.0, 224),
    "lite1": Variant(1.0, 1.1, 240),
    "lite2": Variant(1.1, 1.2, 260),
}
"""From `efficientnet_lite_builder.py` of https://github.com/tensorflow/tpu."""


class EfficientNetLite(nn.Module):
    """The classifier: float Tensor[N, 3, S, S] (RGB, (byte - 127) / 128) -> logits Tensor[N, classes]."""

    def __init__(self, classes: int = 1000, variant: str = "lite0") -> None:
        super().__init__()
        self.backbone = Backbone(VARIANTS[variant].width, VARIANTS[variant].depth)
        self.head = ConvNorm(self.backbone.channels, 1280)
        self.dropout = nn.Dropout(0.2)
        self.classify = nn.Linear(1280, classes)

    def features(self, images: Tensor, out_indices: Sequence[int] = PYRAMID) -> list[Tensor]:
        """See `Backbone.forward`."""
        maps: list[Tensor] = self.backbone(images, out_indices)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.dropout(self.trunk(images).mean(dim=(2, 3))))
        return logits

    def trunk(self, images: Tensor) -> Tensor:
        """All but the pooling and the last layer -> Tensor[N, 1280, h, w]."""
        hidden: Tensor = self.head(self.features(images, (len(self.backbone.blocks) - 1,))[0])
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


@dataclass(frozen=True, slots=True)
class EfficientNetOptions:
    """Options of the builder.

    Attributes:
        variant: a name of `VARIANTS`.
        size: side of the centre crop that the network is given, pixels; None: the variant's.
        fraction: of the image's shorter side that the crop shows, over 0 and at most 1; None: as the weights
            were evaluated.

    Raises:
        ValueError: a value out of its range.
    """

    variant: str = "lite0"
    size: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, tuple(VARIANTS))
        if self.size is not None:
            check_range("size", self.size, 32, 2048)
        if self.fraction is not None:
            check_range("fraction", self.fraction, 0.01, 1)


def build(entry: Entry, files: Mapping[str, Path]) -> ClassifierPipeline:
    """The builder ``efficientnet_lite``; options as in `EfficientNetOptions`.

    Labels come from the file of the role "labels" (one a line) where the entry has one, else they are
    ImageNet's, as torchvision's weights name them.

    Raises:
        WeightsError: `load`'s, a wrong option, or there are more or fewer labels than classes.
    """
    options = read_options(EfficientNetOptions, entry.options)
    variant = VARIANTS[options.variant]
    size, fraction = options.size or variant.size, options.fraction or variant.fraction
    network, labels = load(files["weights"], options.variant), _labels(files)
    if len(labels) != network.classify.out_features:
        raise WeightsError(
            f"{len(labels)} labels, but the network has {network.classify.out_features} classes"
        )
    card = entry.card(
        Kind.CLASSIFY,
        labels=labels,
        input=(size, size),
        details={"architecture": f"EfficientNet-{options.variant.title()}", "crop_fraction": fraction},
        crop_fraction=fraction,
    )
    module = Classifier(network, mean=(MEAN,), scale=(SCALE,))
    # the crop is `fraction` of the shorter side: an image may shrink until that part still fills `size`
    pipeline = ClassifierPipeline(
        card,
        module,
        partial(center_crop, size=size, fraction=fraction),
        min_side=-int(-size // fraction),
        features=module.features,
    )
    if options.variant == "lite0":
        pipeline.perceptual = WeightsFile(files["weights"], card.sha256)
    return pipeline


def _labels(files: Mapping[str, Path]) -> tuple[str, ...]:
    if "labels" in files:
        return read_labels(files["labels"])
    from torchvision.models import EfficientNet_B0_Weights

    return tuple(EfficientNet_B0_Weights.DEFAULT.meta["categories"])
