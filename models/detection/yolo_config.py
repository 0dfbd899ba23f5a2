"""What describes a network of `models.detection.yolo`; it is stored with the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoint import read_metadata
from models.errors import WeightsError

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class YoloConfig:
    """The configuration of a network, stored with its weights.

    Attributes:
        labels: class names by index.
        anchors: per stride its shapes, (width, height) in canvas pixels.
        size: height and width of the canvas, a multiple of 32.
        channels: of the pyramid.
    """

    labels: tuple[str, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    size: int = 320
    channels: int = 128

    def __post_init__(self) -> None:
        if (
            not self.labels
            or len(self.anchors) != len(STRIDES)
            or len({len(row) for row in self.anchors}) != 1
        ):
            raise ValueError("a YOLO needs labels and equally many anchors for each of its three strides")
        if self.size < STRIDES[-1] or self.size % STRIDES[-1]:
            raise ValueError(f"size must be a multiple of {STRIDES[-1]}")

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> YoloConfig:
        """From the JSON object that `dump` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        anchors = tuple(tuple((float(w), float(h)) for w, h in row) for row in raw["anchors"])
        return cls(tuple(raw["labels"]), anchors, int(raw["size"]), int(raw["channels"]))

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(
            {"labels": self.labels, "anchors": self.anchors, "size": self.size, "channels": self.channels}
        )


def read_config(path: Path) -> YoloConfig:
    """The configuration that `models.detection.yolo.save` wrote.

    Raises:
        WeightsError: the file has none.
    """
    raw = read_metadata(path, "config")
    try:
        return YoloConfig.of(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path.name} has no configuration of a YOLO: {error}") from error
