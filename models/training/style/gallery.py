"""Sheets of photographs in all styles, large enough to judge, for the documents.

    python -m models.training.style.gallery models/weights/paintings.safetensors --images person.jpg alp.jpg \
        --names person landscape --out docs/styles

An image may be two beside each other, as high as the first: `--images one.jpg+other.jpg`.

Writes NAME.jpg for every photograph: the photograph and its five styles at 1,024 pixels, as the service
answers; and `strengths.jpg`: the first photograph at three strengths.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.image import Pixels, decode, encode, resize
from models.style.pipeline import BUCKETS
from models.style.transfer import load
from models.training.style.sheet import painted, scaled

STRENGTHS = (0.33, 0.66, 1.0)
LARGEST = 1_000_000
"""Bytes of a sheet; its JPEG quality is the best that stays below."""


def tiled(cells: Sequence[Pixels], columns: int) -> Pixels:
    """Cells of one size side by side, uint8 [h, w, 3] each; the last row is filled with white."""
    blank = np.full_like(cells[0], 255)
    filled = [*cells, *[blank] * (-len(cells) % columns)]
    return np.concatenate(
        [np.concatenate(filled[row : row + columns], axis=1) for row in range(0, len(filled), columns)]
    )


def photograph(files: str) -> Pixels:
    """An image file, or several beside each other: their names, separated by `+`."""
    parts = [decode(Path(file).read_bytes()).pixels for file in files.split("+")]
    height = parts[0].shape[0]
    alike = [resize(part, height, round(part.shape[1] * height / part.shape[0])) for part in parts]
    return np.concatenate(alike, axis=1)


def compressed(pixels: Pixels) -> bytes:
    """A JPEG of at most `LARGEST` bytes, of quality 88 or less."""
    for quality in range(88, 20, -4):
        data = encode(pixels, "jpeg", quality)
        if len(data) <= LARGEST:
            break
    return data


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m models.training.style.gallery", description=main.__doc__)
    parser.add_argument("weights", type=Path, help="of `models.training.style`")
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--names", nargs="+", required=True, help="of the sheets, one for each image")
    parser.add_argument("--size", type=int, default=1024, help="longest side of a photograph, pixels")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    options = parser.parse_args(arguments)
    if len(options.names) != len(options.images):
        parser.error("--names needs a name for each image")

    network, out = load(options.weights), options.out
    styles = [style.name for style in network.config.styles]
    out.mkdir(parents=True, exist_ok=True)
    images = [scaled(photograph(files), options.size, "bicubic") for files in options.images]
    for name, image in zip(options.names, images, strict=True):
        cells = [painted(network, image, style, canvases=BUCKETS) for style in styles]
        (out / f"{name}.jpg").write_bytes(compressed(tiled([image, *cells], 3)))
    weak = [
        painted(network, images[0], style, strength=strength, canvases=BUCKETS)
        for strength in STRENGTHS
        for style in styles[:3]
    ]
    (out / "strengths.jpg").write_bytes(compressed(tiled(weak, 3)))


if __name__ == "__main__":
    main()
