"""An image onto a network's input, and the way back: crop, letterbox or stretch, as one function each."""

from __future__ import annotations

from typing import cast

from models.exported.options import InputOptions
from models.image import Image, Interpolation, Letterbox, Pixels, center_square, letterbox, resize, stretch


def fit(image: Image, height: int, width: int, options: InputOptions) -> tuple[Pixels, Letterbox]:
    """Makes an input of an image.

    Args:
        image: decoded; may be smaller than its original.
        height, width: of the input.
        options: `resize`, `fraction`, `fill`, `interpolation`.

    Returns:
        uint8 [height, width, 3], RGB, and where the original lies on it.
    """
    interpolation = cast(Interpolation, options.interpolation)
    if options.resize == "crop":
        return _crop(image, height, width, options.fraction, interpolation)
    if options.resize == "stretch":
        return stretch(image, height, width, interpolation=interpolation)
    centred = options.resize == "letterbox"
    return letterbox(image, height, width, fill=options.fill, interpolation=interpolation, centred=centred)


def _crop(
    image: Image, height: int, width: int, fraction: float, interpolation: Interpolation
) -> tuple[Pixels, Letterbox]:
    """The centre, as much of it as `fraction` says, in the input's proportions."""
    rows, columns = image.pixels.shape[:2]
    if height == width:
        down, across = center_square(image, height, fraction)
    else:
        zoom = min(rows / height, columns / width) * fraction  # image pixels per input pixel
        part_rows, part_columns = max(1, round(height * zoom)), max(1, round(width * zoom))
        top, left = (rows - part_rows) // 2, (columns - part_columns) // 2
        down, across = slice(top, top + part_rows), slice(left, left + part_columns)
    part = image.pixels[down, across]
    pixels = resize(part, height, width, interpolation=interpolation)
    # of the input's pixels for each of the original's, which the decoder may have reduced
    part_rows, part_columns = part.shape[:2]
    scale_x = width / part_columns * columns / image.width
    scale_y = height / part_rows * rows / image.height
    geometry = Letterbox(
        scale_x,
        scale_y,
        -across.start * width / part_columns,
        -down.start * height / part_rows,
        image.width,
        image.height,
    )
    return pixels, geometry


def min_side(height: int, width: int, options: InputOptions) -> int:
    """The shortest side that a decoder may reduce an image to without loss."""
    longest = max(height, width)
    return -int(-longest // options.fraction) if options.resize == "crop" else longest
