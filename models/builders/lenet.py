"""LeNet-5; see `models.classification.lenet`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from models.classification.digits import SIZE, DigitPipeline, digit_crop
from models.options import NoOptions, read_options
from models.pipeline import Kind

if TYPE_CHECKING:
    from torch import nn

    from models.weights import Entry

LABELS = tuple("0123456789")
FEATURES = 84  # F6


def build(entry: Entry, files: Mapping[str, Path]) -> DigitPipeline:
    """The builder ``lenet5``; it has no options."""
    read_options(NoOptions, entry.options)
    card = entry.card(
        Kind.CLASSIFY,
        labels=LABELS,
        input=(SIZE, SIZE),
        details={"architecture": "LeNet-5", "input": "one digit; dark ink on paper is inverted"},
    )

    def network() -> nn.Module:
        from models.classification.classifier import Classifier
        from models.classification.lenet import load

        return Classifier(load(files["weights"]), mean=(0.0,), scale=(255.0,))

    return DigitPipeline(card, network, digit_crop, min_side=8 * SIZE, features=FEATURES)
