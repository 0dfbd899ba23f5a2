"""GIF: canvas, first image, frames."""

from __future__ import annotations

import struct

from models.errors import ImageInvalid
from models.headers.header import Format, GifImage, Header

_FEW, _BYTES_PER_BLOCK = 10_000, 128
"""Blocks that any file may have, and further ones for each so many bytes: those of writers have 255."""


def read(data: bytes) -> Header:
    """CompuServe's GIF89a: blocks up to the trailer; of the images behind the first only the number."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    shared = _palette(13, flags)
    at, left = shared[1], _FEW + len(data) // _BYTES_PER_BLOCK
    image: GifImage | None = None
    transparent: int | None = None
    complete, frames = False, 0
    while at < len(data) and left > 0:
        kind, left = data[at], left - 1
        if kind == 0x2C:
            x, y, across, down, flags = struct.unpack_from("<HHHHB", data, at + 1)
            own = _palette(at + 10, flags)
            begin = own[1]
            at, left = _skip(data, begin + 1, left)
            frames += 1
            if image is None:
                complete = at <= len(data)
                palette = own if flags & 0x80 else shared
                image = GifImage(
                    across, down, x, y, bool(flags & 0x40), palette, transparent, (begin, min(at, len(data)))
                )
        elif kind == 0x21:
            if data[at + 1] == 0xF9 and data[at + 2] == 4 and image is None:
                transparent = data[at + 6] if data[at + 3] & 1 else None
            at, left = _skip(data, at + 2, left)
        elif kind == 0:  # some writers put one between two blocks
            at += 1
        else:  # the trailer, or what is none
            break
    if left <= 0:
        raise ImageInvalid("the GIF has too many blocks for its size")
    if image is None:
        return Header(Format.GIF, width, height, complete=False)
    # a first image that is larger than the canvas makes it grow, as browsers and Pillow have it
    width, height = max(width, image.left + image.width), max(height, image.top + image.height)
    if image.width == 0 or image.height == 0:
        width = height = 0
    return Header(Format.GIF, width, height, complete=complete, frames=frames, layout=image)


def _palette(at: int, flags: int) -> tuple[int, int]:
    """Begin and end of the colours at `at`, if there are any."""
    return at, at + (3 << (flags & 7) + 1 if flags & 0x80 else 0)


def _skip(data: bytes, at: int, left: int) -> tuple[int, int]:
    """Behind the blocks at `at` and the empty one that ends them, and how many more may be visited.

    The place is beyond the file where it ends before them.
    """
    while left > 0 and at < len(data) and data[at]:
        at, left = at + 1 + data[at], left - 1
    return at + 1, left


def without_metadata(data: bytes, image: GifImage) -> bytes:
    """A GIF of the first image alone, on a canvas of its size; without transparency."""
    colours = data[slice(*image.palette)]
    flags = 0x40 if image.interlaced else 0
    if colours:
        flags |= 0x80 | (len(colours) // 3).bit_length() - 2
    sides = struct.pack("<HH", image.width, image.height)
    screen = b"GIF89a" + sides + b"\x00\x00\x00"
    return screen + b"\x2c" + bytes(4) + sides + bytes([flags]) + colours + data[slice(*image.data)] + b"\x3b"
