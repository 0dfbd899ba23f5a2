"""BMP: plain pixels and bit fields here, run lengths through OpenCV."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from models.codecs.rows import Pixels, band_rows, decoding, gather, over_white, unpacked
from models.errors import ImageInvalid
from models.headers.header import Bitmap, Header


def cost(header: Header, reduction: int, length: int) -> tuple[int, float]:
    """Bytes: the result, and of run lengths OpenCV's image, its copy and a new file; and seconds."""
    pixels = header.width * header.height
    result = 3 * header.pixels_at(reduction)
    if header.layout_as(Bitmap).run_lengths:
        return 6 * pixels + result + 2 * length, 6e-9 * pixels + 10e-9 * length
    return result, 8e-9 * pixels


def decode(data: bytes, header: Header, reduction: int) -> Pixels:
    """uint8 RGB, divided by `reduction` and rounded up; over white where there is transparency."""
    image = header.layout_as(Bitmap)
    height, width = header.height, header.width
    rows = band_rows(width, reduction)
    if image.run_lengths:
        whole = _run_lengths(data, header, image)
        bands = (whole[top : top + rows] for top in range(0, height, rows))
        return gather(bands, height, width, reduction)
    stride = (width * image.bits + 31) // 32 * 4
    stored = np.frombuffer(data, np.uint8)[image.data : image.data + stride * height]
    if len(stored) < stride * height:  # the padding of the last row
        stored = np.pad(stored, (0, stride * height - len(stored)))
    stored = stored.reshape(height, stride)
    if not image.down:
        stored = stored[::-1]
    colours = _colours(data, image)
    opaque = not image.masks[3] or not _any(stored, image)
    bands = (_band(stored[top : top + rows], width, image, colours, opaque) for top in range(0, height, rows))
    return gather(bands, height, width, reduction)


def _colours(data: bytes, image: Bitmap) -> Pixels:
    """uint8 [256, 3], RGB; black where the palette ends."""
    colours = np.zeros((256, 3), np.uint8)
    begin, end = image.palette
    count = min((end - begin) // image.entry, 256)
    entries = np.frombuffer(data, np.uint8, count * image.entry, begin).reshape(count, image.entry)
    colours[:count] = entries[:, 2::-1]
    return colours


def _words(rows: Pixels, bits: int) -> np.ndarray[tuple[int, int], np.dtype[np.unsignedinteger]]:
    return np.ascontiguousarray(rows).view(f"<u{bits // 8}")


def _any(stored: Pixels, image: Bitmap) -> bool:
    """Whether any pixel is not wholly transparent; where none is, writers mean an opaque image."""
    step = max(1, (1 << 18) // stored.shape[1])
    return any(
        bool((_words(stored[top : top + step], image.bits) & image.masks[3]).any())
        for top in range(0, len(stored), step)
    )


def _band(rows: Pixels, width: int, image: Bitmap, colours: Pixels, opaque: bool) -> Pixels:
    """uint8 [n, stride] -> RGB uint8 [n, width, 3]."""
    if image.bits == 24:
        bgr = rows[:, : 3 * width].reshape(len(rows), width, 3)
        rgb: Pixels = cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2RGB)
        return rgb
    if image.bits <= 8:
        indices = unpacked(rows, image.bits) if image.bits < 8 else rows
        return np.take(colours, indices[:, :width], axis=0)
    if image.masks == (0xFF0000, 0xFF00, 0xFF, 0):
        return np.ascontiguousarray(rows).reshape(len(rows), -1, 4)[:, :width, 2::-1]
    words = _words(rows, image.bits)[:, :width]
    masks = image.masks[:3] if opaque else image.masks
    channels = np.stack([_field(words, mask) for mask in masks], axis=-1)
    return channels if opaque else over_white(channels)


def _field(words: np.ndarray[tuple[int, int], np.dtype[np.unsignedinteger]], mask: int) -> Pixels:
    """A field of every pixel, scaled to 8 bits."""
    if not mask:
        return np.zeros(words.shape, np.uint8)
    low = (mask & -mask).bit_length() - 1
    most = mask >> low
    values = (words & mask) >> low
    if most > 255:  # the high byte
        return (values >> most.bit_length() - 8).astype(np.uint8)
    return ((values.astype(np.uint16) * 255 + most // 2) // most).astype(np.uint8)


def _run_lengths(data: bytes, header: Header, image: Bitmap) -> Pixels:
    palette = np.zeros((1 << image.bits, 4), np.uint8)
    palette[:, :3] = _colours(data, image)[: len(palette), ::-1]
    body = data[image.data :] + b"\x00\x01"  # the end, which some writers leave out
    head = struct.pack(
        "<IiiHHIIiiII",
        40,
        header.width,
        header.height,
        1,
        image.bits,
        1 if image.bits == 8 else 2,
        len(body),
        0,
        0,
        len(palette),
        0,
    )
    start = 14 + len(head) + palette.nbytes
    file = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette.tobytes() + body
    with decoding(header.format):
        pixels: Pixels | None = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None or pixels.shape != (header.height, header.width, 3):
        raise ImageInvalid("the BMP is truncated or corrupt")
    return pixels
