"""PNG through Pillow; and the odd JPEG that TurboJPEG does not take.

Pillow keeps 1 byte a pixel of what is grey or has a palette, 2 of 16-bit grey and 4 of all else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image as PILImage
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from models.codecs.rows import Pixels, band_rows, decoding, gather, over_white
from models.errors import ImageInvalid
from models.headers.header import Header
from models.headers.png import without_metadata


def cost(header: Header, reduction: int, length: int) -> tuple[int, float]:
    """Bytes: Pillow's image, the result and a file without its metadata; and seconds."""
    pixels = header.width * header.height
    result = header.pixels_at(reduction)
    memory = header.stored * pixels + 3 * result + length
    return memory, 6e-9 * header.raw + 10e-9 * pixels + 2e-9 * length


def decode(data: bytes, header: Header, reduction: int) -> Pixels:
    """uint8 RGB, divided by `reduction` and rounded up."""
    return decode_with(PngImageFile, without_metadata(data), header, reduction)


def decode_with(plugin: type[ImageFile.ImageFile], data: bytes, header: Header, reduction: int) -> Pixels:
    """Decodes with one of Pillow's plugins.

    It is called by its class and not through Pillow's open(): that one would try other formats, and compare
    with a limit that is global to the process.
    """
    with decoding(header.format), plugin(io.BytesIO(data)) as image:
        if image.size != (header.width, header.height):
            raise ImageInvalid(f"the {header.format} tells its size in two ways")
        image.load()
        bands = _bands(image, band_rows(image.width, reduction))
        return gather(bands, image.height, image.width, reduction)


def _bands(image: PILImage.Image, rows: int) -> Iterator[Pixels]:
    """uint8 RGB [rows, w, 3], from the top."""
    transparent = image.has_transparency_data
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        if band.mode.startswith("I"):  # 16-bit grey: the high byte, as Pillow and libpng do for colour
            yield np.repeat((np.asarray(band).astype(np.uint16) >> 8).astype(np.uint8)[..., None], 3, axis=2)
        elif transparent:
            yield over_white(np.asarray(band if band.mode == "RGBA" else band.convert("RGBA")))
        else:
            yield np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
