"""EfficientDet-Lite0; see `models.detection.efficientdet`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.boxes import CANDIDATES
from models.checkpoint import read_labels, require_files
from models.detection.coco import IDS, UNUSED
from models.detection.pipeline import DetectorOptions, DetectorPipeline
from models.errors import WeightsError
from models.options import check_range, read_options
from models.pipeline import Kind

if TYPE_CHECKING:
    from torch import nn

    from models.weights import Entry

MULTIPLE = 64  # of the canvas's side
FILL = 127  # the padding of the canvas is zero after normalisation


@dataclass(frozen=True, slots=True)
class EfficientDetOptions(DetectorOptions):
    """Options of the builder, besides those of all detectors.

    Attributes:
        size: of the canvas, pixels, a multiple of 64 from 192 to 1536. An image lies on a square of this
            side, or on a wide or a high canvas of about the same area: whichever shows it largest.

    Raises:
        ValueError: a value out of its range.
    """

    score_threshold: float = 0.35
    size: int = 448

    def __post_init__(self) -> None:
        DetectorOptions.__post_init__(self)
        check_range("size", self.size, 192, 1536)
        if self.size % MULTIPLE:
            below = self.size - self.size % MULTIPLE
            near = f"{below} and {below + MULTIPLE}"
            raise ValueError(
                f"options.size is {self.size}, no multiple of {MULTIPLE}; the nearest are {near}"
            )

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths: square, wide and high."""
        less = self.size - MULTIPLE
        # 384 x 576 takes a CPU less time than 384 x 512: rows of a power of two share places of its caches
        return (self.size, self.size), (less, self.size + 2 * MULTIPLE), (self.size + MULTIPLE, less)


def build(entry: Entry, files: Mapping[str, Path]) -> DetectorPipeline:
    """The builder ``efficientdet``; options as in `EfficientDetOptions`.

    Files:
        weights: the TensorFlow Lite file as converted by `convert`, which the catalogue names.
        labels: a class name a line, ``???`` for the ids that are not in use.

    Raises:
        WeightsError: a file is missing or is not what it should be, or an option is wrong.
    """
    require_files(files, ("weights", "labels"), "an EfficientDet")
    options = read_options(EfficientDetOptions, entry.options)
    names = read_labels(files["labels"])
    if len(names) != IDS:
        raise WeightsError(f"{files['labels'].name}: {len(names)} labels, but the network has {IDS} classes")
    used = [index for index, name in enumerate(names) if name != UNUSED]
    square, *others = options.canvases
    card = entry.card(
        Kind.DETECT,
        labels=[names[index] for index in used],
        input=square,
        details={
            "architecture": "EfficientDet-Lite0",
            "canvases": options.canvases,
            "candidates": CANDIDATES,
        },
    )

    def network() -> nn.Module:
        from models.detection.efficientdet import Detector, load

        return Detector(load(files["weights"], used))

    pipeline = DetectorPipeline(card, network, options, fill=FILL, canvases=others)
    pipeline.dynamic_size = True
    return pipeline
