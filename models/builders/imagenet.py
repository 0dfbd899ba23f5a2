"""The labels of ImageNet's 1,000 classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from models.checkpoint import read_labels


@cache
def imagenet_labels() -> tuple[str, ...]:
    """By index, as torchvision's weights name them."""
    return read_labels(Path(__file__).parent.parent / "weights" / "imagenet.names")
