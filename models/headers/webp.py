"""WebP: canvas, first image, orientation, frames."""

from __future__ import annotations

import struct
from dataclasses import replace

from models.errors import ImageInvalid
from models.headers.exif import read_orientation
from models.headers.header import MAX_CHUNKS, MAX_EXIF, MAX_SEGMENTS, Format, Header, WebpImage

_ANIMATION, _EXIF = 0x02, 0x08


def read(data: bytes) -> Header:
    """RFC 9649: a RIFF file whose first chunk is a lossy, a lossless or an extended image."""
    kind = data[12:16]
    if kind in (b"VP8 ", b"VP8L"):
        image = _image(data, 12, len(data))
        if image is None:
            raise ImageInvalid("the WebP does not begin with an image")
        return Header(
            Format.WEBP, image.width, image.height, complete=image.chunk[1] <= len(data), layout=image
        )
    if kind != b"VP8X":
        raise ImageInvalid("the WebP does not begin with an image")
    width_low, width_high, height_low, height_high = struct.unpack_from("<HBHB", data, 24)
    width, height = (width_high << 16 | width_low) + 1, (height_high << 16 | height_low) + 1
    animated, has_exif = (bool(data[20] & flag) for flag in (_ANIMATION, _EXIF))
    wanted = (b"ANMF",) if animated else (b"ALPH", b"VP8 ", b"VP8L")
    orientation: int | None = None
    at, image, frames = 12, None, 0
    for _ in range(MAX_CHUNKS if animated else MAX_SEGMENTS):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length
        if kind in wanted:
            frames += 1
            if frames == 1:
                parse = _frame if animated else _image
                image = parse(data, at, min(end, len(data)) if animated else len(data))
        elif kind == b"EXIF" and has_exif and orientation is None:
            orientation = read_orientation(data[at + 8 : at + 8 + min(length, MAX_EXIF)])
        if kind == b"" or (frames and not animated and (orientation or not has_exif)):
            break
        at = end + length % 2
    else:
        if animated:
            raise ImageInvalid(f"the WebP has more than {MAX_CHUNKS} chunks")
    if image is not None and not animated and (image.width, image.height) != (width, height):
        raise ImageInvalid("the WebP tells its size in two ways")
    complete = image is not None and image.chunk[1] <= len(data)
    return Header(
        Format.WEBP,
        width,
        height,
        orientation or 1,
        complete=complete,
        frames=max(frames, 1) if animated else 1,
        layout=image,
    )


def _frame(data: bytes, at: int, end: int) -> WebpImage | None:
    """The image of an animation's frame (RFC 9649, 2.7.1.2), whose chunk begins at `at`."""
    x_low, x_high, y_low, y_high = struct.unpack_from("<HBHB", data, at + 8)
    image = _image(data, at + 24, end)
    return image and replace(image, left=2 * (x_high << 16 | x_low), top=2 * (y_high << 16 | y_low))


def _image(data: bytes, at: int, end: int) -> WebpImage | None:
    """The first bitstream from the chunk at `at` on and before `end`, with the alpha plane before it."""
    plane = (0, 0)
    for _ in range(MAX_SEGMENTS):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = at, at + 8 + length
        if kind == b"VP8 " and data[at + 11 : at + 14] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, at + 14)
            return WebpImage(width & 0x3FFF, height & 0x3FFF, False, plane != (0, 0), chunk, plane)
        if kind == b"VP8L" and data[at + 8 : at + 9] == b"\x2f":
            (bits,) = struct.unpack_from("<I", data, at + 9)
            return WebpImage(
                (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, True, bool(bits >> 28 & 1), chunk
            )
        if kind == b"ALPH":
            plane = chunk
        at = chunk[1] + length % 2
        if at >= end:
            break
    return None
