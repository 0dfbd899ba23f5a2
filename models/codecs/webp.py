"""WebP: libwebp through OpenCV, which decodes straight into one array.

It is given a file made of the bitstream and its alpha plane alone: no metadata, and of
an animation only the first frame.
"""

from __future__ import annotations

import cv2
import numpy as np

from models.codecs.rows import Pixels, band_rows, decoding, gather, over_white, pack
from models.errors import ImageInvalid
from models.headers.header import Header, WebpImage

# It would write what is wrong with a client's file to stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# A lossless image, and an alpha plane, may have as many as 65,536 groups of five prefix codes, one for each
# 4 x 4 pixels, of 4 bits each; libwebp makes tables of 256 entries for every code, larger ones of codes that
# take more of the file. A file of 295 kB took 360 MB and 0.4 s so. Encoders make 2,600 groups at most.
_ENCODED_GROUPS = 2_600
# A larger bound is told as nearly a whole budget, so that the image is decoded alone. The tables of a file
# made for it then take up to 0.4 GB more; no real file is refused for tables that it does not have.
_ALONE = 480 << 20
_GROUPS, _GROUP_BITS, _GROUP_BYTES, _GROUP_SECONDS = 65_536, 20, 6_000, 5e-6
_KEPT = 32 << 20  # bytes of a freed block that the C library may keep for itself


def cost(header: Header, reduction: int, length: int) -> tuple[int, float]:
    """Bytes: OpenCV's image and its copy, libwebp's own, its tables, a canvas, the new file; and seconds."""
    image = header.layout_as(WebpImage)
    pixels, canvas = image.width * image.height, header.width * header.height
    own = tables = usual = groups = 0
    if image.lossless or image.alpha:
        own = (4 if image.lossless else 5) * pixels
        blocks = -(-image.width // 4) * -(-image.height // 4)
        begin, end = image.chunk if image.lossless else image.plane
        groups = min(_GROUPS, blocks, 8 * (end - begin) // _GROUP_BITS)
        tables = _GROUP_BYTES * groups + 8 * (end - begin)
        usual = _GROUP_BYTES * min(groups, _ENCODED_GROUPS)
    decoded = (4 if image.alpha else 3) * pixels
    around = 3 * canvas if canvas != pixels else 0
    reduced = 3 * header.pixels_at(reduction) if reduction > 1 else 0

    def memory(own: int) -> int:
        peak = decoded + max(own, decoded) + min(own, _KEPT)
        return length + max(peak, decoded + around + reduced)

    most = min(memory(own + tables), max(memory(own + usual), _ALONE))
    return most, 20e-9 * pixels + 2e-9 * canvas + 50e-9 * length + _GROUP_SECONDS * groups


def decode(data: bytes, header: Header, reduction: int) -> Pixels:
    """uint8 RGB, divided by `reduction` and rounded up; over white, as is a canvas around a frame."""
    image = header.layout_as(WebpImage)
    pixels = _decode(data, image)
    width, height = header.width, header.height
    whole = (image.width, image.height) == (width, height)
    if image.alpha and not (whole and reduction > 1):
        pixels = pack(pixels, _laid)
    if not whole:
        if image.left + image.width > width or image.top + image.height > height:
            raise ImageInvalid("the WebP's first frame is larger than its canvas")
        canvas = np.full((height, width, 3), 255, np.uint8)
        canvas[image.top : image.top + image.height, image.left : image.left + image.width] = pixels
        pixels = canvas
    if reduction == 1:
        return pixels
    rows = band_rows(width, reduction)
    bands = (pixels[top : top + rows] for top in range(0, height, rows))
    return gather(map(_laid, bands) if pixels.shape[2] == 4 else bands, height, width, reduction)


def _laid(bgra: Pixels) -> Pixels:
    """uint8 BGRA -> RGB, over white."""
    rgb: Pixels = cv2.cvtColor(over_white(bgra), cv2.COLOR_BGR2RGB)
    return rgb


def _decode(data: bytes, image: WebpImage) -> Pixels:
    """uint8 RGB, or BGRA where there is an alpha plane."""
    file = np.frombuffer(_file(data, image), np.uint8)
    how = cv2.IMREAD_UNCHANGED if image.alpha else cv2.IMREAD_COLOR_RGB
    with decoding("WebP"):
        pixels = cv2.imdecode(file, how | cv2.IMREAD_IGNORE_ORIENTATION)
    shape = image.height, image.width, 4 if image.alpha else 3
    if pixels is None or pixels.shape != shape or pixels.dtype != np.uint8:
        raise ImageInvalid("the WebP is truncated or corrupt")
    decoded: Pixels = pixels
    return decoded


def _file(data: bytes, image: WebpImage) -> bytes:
    """The simplest file that holds the image."""
    bitstream = _even(data[slice(*image.chunk)])
    if image.alpha and not image.lossless:
        sides = (image.width - 1).to_bytes(3, "little") + (image.height - 1).to_bytes(3, "little")
        extended = b"VP8X\x0a\x00\x00\x00\x10\x00\x00\x00" + sides
        bitstream = extended + _even(data[slice(*image.plane)]) + bitstream
    file = b"RIFF" + (4 + len(bitstream)).to_bytes(4, "little") + b"WEBP" + bitstream
    return file.ljust(32, b"\x00")  # OpenCV takes no shorter file; there are some


def _even(chunk: bytes) -> bytes:
    return chunk + bytes(len(chunk) % 2)
