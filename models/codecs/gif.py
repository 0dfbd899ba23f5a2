"""GIF through Pillow, which is given a file of the first image alone."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL.GifImagePlugin import GifImageFile

from models.codecs.rows import Pixels, band_rows, decoding, gather
from models.errors import ImageInvalid
from models.headers.gif import without_metadata
from models.headers.header import GifImage, Header


def cost(header: Header, reduction: int, length: int) -> tuple[int, float]:
    """Bytes: Pillow's image, the result, the new file; and seconds."""
    image = header.layout_as(GifImage)
    pixels, canvas = image.width * image.height, header.width * header.height
    result = 3 * header.pixels_at(reduction)
    return pixels + result + 2 * length, 8e-9 * (pixels + canvas) + 10e-9 * length


def decode(data: bytes, header: Header, reduction: int) -> Pixels:
    """uint8 RGB, divided by `reduction` and rounded up; white where the image is transparent or does not
    reach."""
    image = header.layout_as(GifImage)
    with decoding(header.format), GifImageFile(io.BytesIO(without_metadata(data, image))) as opened:
        if opened.size != (image.width, image.height):
            raise ImageInvalid("the GIF tells its size in two ways")
        opened.load()
        bands = _bands(opened, header, image, _colours(data, image), band_rows(header.width, reduction))
        return gather(bands, header.height, header.width, reduction)


def _colours(data: bytes, image: GifImage) -> Pixels:
    """uint8 [256, 3]: grey where there is no palette, black where it ends, white for what is transparent."""
    palette = np.frombuffer(data[slice(*image.palette)], np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    if not len(palette):
        colours[:] = np.arange(256)[:, None]
    if image.transparent is not None:
        colours[image.transparent] = 255
    return colours


def _bands(
    opened: GifImageFile, header: Header, image: GifImage, colours: Pixels, rows: int
) -> Iterator[Pixels]:
    """RGB uint8 [rows, w, 3] of the canvas, from the top."""
    for top in range(0, header.height, rows):
        bottom = min(top + rows, header.height)
        first, last = (min(max(row - image.top, 0), image.height) for row in (top, bottom))
        shown = np.take(colours, np.asarray(opened.crop((0, first, image.width, last))), axis=0)
        if shown.shape[:2] != (bottom - top, header.width):
            inner, shown = shown, np.full((bottom - top, header.width, 3), 255, np.uint8)
            down = max(image.top - top, 0)
            shown[down : down + len(inner), image.left : image.left + image.width] = inner
        yield shown
