"""AVIF through Pillow (libavif with dav1d), HEIC through pi-heif (libheif with libde265).

Both are given a file made of the coded image alone: no metadata, no further images, no turns.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pi_heif
from PIL import AvifImagePlugin

from models.codecs.rows import Pixels, band_rows, decoding, gather, over_white
from models.errors import ImageInvalid
from models.headers.header import Format, Header, HeifImage
from models.headers.heif import without_metadata

AvifImagePlugin.DEFAULT_MAX_THREADS = 1
pi_heif.options.DECODE_THREADS = (
    0  # of a grid's tiles: none of its own; libde265 has one while the caller waits
)
pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False

# Nanoseconds for a pixel, for a byte and for a tile.
_NS = {Format.AVIF: (14, 62, 60_000), Format.HEIC: (25, 70, 200_000)}
_OWN = {Format.AVIF: 9, Format.HEIC: 12}  # bytes for each decoded pixel, of planes of 16 bits


def cost(header: Header, reduction: int, length: int) -> tuple[int, float]:
    """Bytes: the decoder's planes, its RGB copy, the result, the new file and its copies; and seconds."""
    image = header.layout_as(HeifImage)
    pixels = image.width * image.height
    channels = 3 if image.alpha is None else 4
    result = 3 * header.pixels_at(reduction)
    memory = (_OWN[header.format] + channels) * pixels + result + 3 * image.coded
    by_pixel, by_byte, by_tile = _NS[header.format]
    return memory, 1e-9 * (by_pixel * image.decoded + by_byte * image.coded + by_tile * image.tiles)


def decode(data: bytes, header: Header, reduction: int) -> Pixels:
    """uint8 RGB, divided by `reduction` and rounded up."""
    image = header.layout_as(HeifImage)
    file = without_metadata(data, image)
    with decoding(header.format):
        pixels, owner = _avif(file) if header.format is Format.AVIF else _heic(file)
    if pixels.shape[:2] != (image.height, image.width):
        raise ImageInvalid(f"the {header.format} tells its size in two ways")
    pixels = pixels[image.top : image.top + header.height, image.left : image.left + header.width]
    rows = band_rows(header.width, reduction)
    bands = (pixels[top : top + rows] for top in range(0, header.height, rows))
    shown = (over_white(band) if band.shape[2] == 4 else band for band in bands)
    result = gather(shown, header.height, header.width, reduction)
    del owner
    return result


class _Avif(AvifImagePlugin.AvifImageFile):
    """Pillow's plugin, whose pixels are taken before a copy is made of them."""

    def pixels(self) -> tuple[bytes, int, int, int]:
        """RGB or RGBA, and their shape."""
        data: bytes = self._decoder.get_frame(0)[0]
        return data, self.height, self.width, len(self.getbands())


def _avif(file: bytes) -> tuple[Pixels, object]:
    """uint8 [h, w, 3 or 4], and what has to be kept as long as they are used."""
    with _Avif(io.BytesIO(file)) as image:
        data, *shape = image.pixels()
    return np.frombuffer(data, np.uint8).reshape(shape), data


def _heic(file: bytes) -> tuple[Pixels, object]:
    """The same. pi-heif's `data` is a view of memory that goes away with its image."""
    image: Any = pi_heif.open_heif(io.BytesIO(file))
    width, height = image.size
    data = image.data
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2}[image.mode]
    pixels = (
        np.frombuffer(data, np.uint8)
        .reshape(height, -1)[:, : width * channels]
        .reshape(height, width, channels)
    )
    return (np.repeat(pixels, 3, axis=2) if channels == 1 else pixels), image
