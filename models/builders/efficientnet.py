"""EfficientNet-Lite, the default classifier; see `models.classification.efficientnet`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from models.checkpoint import read_labels
from models.classification.pipeline import ClassifierPipeline
from models.errors import WeightsError
from models.image import center_crop
from models.options import check_choice, check_range, read_options
from models.pipeline import Kind, WeightsFile

if TYPE_CHECKING:
    from torch import nn

    from models.weights import Entry

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}
"""Side of the input, pixels, by variant; from `efficientnet_lite_builder.py` of
https://github.com/tensorflow/tpu."""
IMAGENET = Path(__file__).parents[1] / "weights" / "imagenet.names"
"""The labels of ImageNet's 1,000 classes by index, as torchvision's weights name them."""
MARGIN = 32  # pixels around the input that the weights were evaluated without
FEATURES = 1280


@dataclass(frozen=True, slots=True)
class EfficientNetOptions:
    """Options of the builder.

    Attributes:
        variant: a name of `SIZES`.
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
        check_choice("variant", self.variant, tuple(SIZES))
        if self.size is not None:
            check_range("size", self.size, 32, 2048)
        if self.fraction is not None:
            check_range("fraction", self.fraction, 0.01, 1)


def build(entry: Entry, files: Mapping[str, Path]) -> ClassifierPipeline:
    """The builder ``efficientnet_lite``; options as in `EfficientNetOptions`.

    Labels come from the file of the role "labels" (one a line) where the entry has one, else they are
    ImageNet's.

    Raises:
        WeightsError: a wrong option, or no labels.
    """
    options = read_options(EfficientNetOptions, entry.options)
    size = options.size or SIZES[options.variant]
    fraction = options.fraction or SIZES[options.variant] / (SIZES[options.variant] + MARGIN)
    labels = read_labels(files.get("labels", IMAGENET))
    card = entry.card(
        Kind.CLASSIFY,
        labels=labels,
        input=(size, size),
        details={"architecture": f"EfficientNet-{options.variant.title()}", "crop_fraction": fraction},
        crop_fraction=fraction,
    )

    def network() -> nn.Module:
        from models.backbones.efficientnet_lite import MEAN, SCALE
        from models.classification.classifier import Classifier
        from models.classification.efficientnet import load

        made = load(files["weights"], options.variant)
        if len(labels) != made.classify.out_features:
            raise WeightsError(
                f"{len(labels)} labels, but the network has {made.classify.out_features} classes"
            )
        return Classifier(made, mean=(MEAN,), scale=(SCALE,))

    # the crop is `fraction` of the shorter side: an image may shrink until that part still fills `size`
    pipeline = ClassifierPipeline(
        card,
        network,
        partial(center_crop, size=size, fraction=fraction),
        min_side=-int(-size // fraction),
        features=FEATURES,
    )
    if options.variant == "lite0":
        pipeline.perceptual = WeightsFile(files["weights"], card.sha256)
    return pipeline
