"""The YOLO of this project; see `models.detection.yolo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from models.detection.pipeline import DetectorOptions, DetectorPipeline
from models.detection.yolo_config import read_config
from models.options import read_options
from models.pipeline import Kind

if TYPE_CHECKING:
    from torch import nn

    from models.weights import Entry


def build(entry: Entry, files: Mapping[str, Path]) -> DetectorPipeline:
    """The builder ``yolo``; options as in `DetectorOptions`.

    Raises:
        WeightsError: the file has no configuration of a YOLO, or a wrong option.
    """
    options = read_options(DetectorOptions, entry.options)
    config = read_config(files["weights"])
    card = entry.card(
        Kind.DETECT,
        labels=config.labels,
        input=(config.size, config.size),
        details={"architecture": "YOLO on EfficientNet-Lite0"},
    )

    def network() -> nn.Module:
        from models.detection.yolo import Detector, load

        return Detector(load(files["weights"]))

    return DetectorPipeline(card, network, options)
