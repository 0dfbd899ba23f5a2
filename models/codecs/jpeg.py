"""JPEG: libjpeg-turbo through simplejpeg, and through Pillow where TurboJPEG has no name for the sampling.

The frame types are those of `models.headers.header.Frame`: baseline, extended and progressive,
Huffman-coded, 8 bits. Only their rows come reduced when a reduced size is asked for; those of a lossless
frame are written at full size, past the end of the buffer.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import simplejpeg
from PIL import Image as PILImage
from PIL.JpegImagePlugin import JpegImageFile

from models.codecs import pillow
from models.codecs.rows import Pixels, light, pack
from models.errors import ImageInvalid
from models.headers.header import Frame, Header
from models.headers.jpeg import without_metadata

# These samplings of the first component (and of the fourth), the others 1 x 1. TurboJPEG names no others.
_TURBO_SAMPLINGS = frozenset({(1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (1, 4)})

# libjpeg-turbo's warnings. After these ones pixels are missing.
_LOST_PIXELS = ("remature end", "bad Huffman code", "instead of RST")
# And after these the image is whole: stray bytes between segments, an odd JFIF or Adobe version, an unusual
# progression, a baseline scan with parameters of a progressive one. All else is an error, after which the
# pixels are of no use.
_HARMLESS = (
    "extraneous bytes before",
    "nconsistent progression",
    "Adobe color transform",
    "JFIF revision",
    "nvalid SOS parameters",
)


def reducible(frame: Frame) -> bool:
    """Whether the frame may be decoded at 1/2, 1/4 and 1/8 of its size: whether TurboJPEG takes it."""
    return _of_sampling(frame.sampling)[0]


@lru_cache(maxsize=64)  # there are few
def _of_sampling(sampling: tuple[tuple[int, int], ...]) -> tuple[bool, int, int]:
    """Whether TurboJPEG takes it; samples of all components in so many pixels."""
    first, *others = sampling
    colours, black = others[:2], others[2:]
    turbo = not others or (
        first in _TURBO_SAMPLINGS and colours == [(1, 1), (1, 1)] and black in ([], [first])
    )
    return turbo, sum(h * v for h, v in sampling), max(h for h, _ in sampling) * max(v for _, v in sampling)


def cost(header: Header, reduction: int, length: int) -> tuple[int, float]:
    """Bytes: the result, and, where there are several scans, all coefficients; and seconds."""
    frame = header.layout_as(Frame)
    result = header.pixels_at(reduction)
    memory = 2 * frame.coefficients + max(3, header.components) * result
    turbo, samples, pixels = _of_sampling(frame.sampling)
    if not turbo:
        memory += 4 * result + length
    samples = samples * header.width * header.height // pixels
    nanoseconds = frame.scan_ns + 13 * length + 2 * samples * (1 + bool(frame.coefficients)) / reduction
    return memory, nanoseconds * 1e-9


def decode(data: bytes, header: Header, reduction: int) -> Pixels:
    """uint8 RGB, divided by `reduction` and rounded up."""
    frame = header.layout_as(Frame)
    if not reducible(frame):
        return pillow.decode_with(_Jpeg, without_metadata(data, header.components), header, 1)
    height, width = -(-header.height // reduction), -(-header.width // reduction)
    pixels = np.empty((height, width, 4 if header.components == 4 else 3), np.uint8)
    try:
        _decompress(data, pixels)
    except ValueError as error:
        if not _is_harmless(error):
            raise ImageInvalid("the JPEG is truncated or corrupt") from error
        if _warns_in_its_header(data):  # which ended the call before anything was decoded
            try:
                _decompress(without_metadata(data, header.components), pixels)
            except ValueError as second:
                if not _is_harmless(second):
                    raise ImageInvalid("the JPEG is truncated or corrupt") from second
    return pack(pixels, light) if header.components == 4 else pixels


def _decompress(data: bytes, pixels: Pixels) -> None:
    """Fills `pixels`, and then raises ValueError if there was a warning."""
    height, width, channels = pixels.shape
    colours = "CMYK" if channels == 4 else "RGB"
    decoded = simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width, buffer=pixels)
    if decoded.shape != pixels.shape:
        raise ImageInvalid("the JPEG tells its size in two ways")


def _warns_in_its_header(data: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return True
    except KeyError:  # it decodes the sampling 4:4:1, but has no name for it
        return False
    return False


def _is_harmless(error: ValueError) -> bool:
    text = str(error)
    return any(words in text for words in _HARMLESS) and not any(words in text for words in _LOST_PIXELS)


class _Jpeg(JpegImageFile):
    """Pillow's plugin without its EXIF reader, which warns of broken blocks; the orientation is known."""

    def getexif(self) -> PILImage.Exif:
        return PILImage.Exif()
