"""A data set in YOLO's format: `images/NAME.jpg` beside `labels/NAME.txt`, one box a line, normalised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.headers.reader import read_header

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its boxes.

    Attributes:
        path: of the image.
        boxes: float64 [K, 5]: class, centre x, centre y, width, height, the last four in 0..1 of the image.
    """

    path: Path
    boxes: NDArray[np.float64]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image in pixels, from its header."""
        header = read_header(self.path.read_bytes())
        upright = header.orientation < 5
        return (header.width, header.height) if upright else (header.height, header.width)


@dataclass(frozen=True)
class Folder:
    """A data set's samples, by file name."""

    samples: tuple[Sample, ...]

    @classmethod
    def read(cls, root: Path, *, labels: str = "labels", classes: int | None = None) -> Folder:
        """Reads every label file and finds its image; no pixel is decoded.

        An image without a label file is no sample; an empty label file is an image without objects.

        Args:
            root: the folder that holds ``images`` and the labels' folder.
            labels: its name.
            classes: how many there are; None takes any index.

        Raises:
            ValueError: a label file without an image, or a line that is no box; names the file and line.
        """
        found = {path.stem: path for path in (root / "images").iterdir() if path.suffix.lower() in SUFFIXES}
        samples = []
        for path in sorted((root / labels).glob("*.txt")):
            if path.stem not in found:
                raise ValueError(f"{path.name} has no image in images/")
            samples.append(Sample(found[path.stem], read_boxes(path, classes)))
        return cls(tuple(samples))


def read_boxes(path: Path, classes: int | None) -> NDArray[np.float64]:
    """One label file -> float64 [K, 5]: class, cx, cy, w, h.

    Raises:
        ValueError: a line that is no box, or a class index that there is not; names the file and line.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        known = (
            len(row) == 5 and row[0] >= 0 and row[0].is_integer() and (classes is None or row[0] < classes)
        )
        if not known or not all(0 <= value <= 1 for value in row[1:]):
            raise ValueError(f"{path.name}, line {number}: not a box: {line!r}")
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, 5)
