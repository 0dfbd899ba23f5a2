"""PNG files that are expensive for their size: huge and uniform, many chunks, metadata that inflates."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from functools import cache

from loadtests.imagefiles import PNG_MAGIC, chunk

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by colour type."""
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, step across and step down of each pass."""


def uniform(
    width: int,
    height: int,
    *,
    depth: int = 8,
    color: int = 2,
    interlaced: bool = False,
    transparent: bool = False,
    before: Iterable[bytes] = (),
) -> bytes:
    """A PNG of zeros: black, or transparent black.

    Args:
        width, height: pixels.
        depth: bits of a sample.
        color: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA.
        interlaced: Adam7.
        transparent: with a tRNS chunk, for colour types that may have one.
        before: chunks between the header and the image data.
    """
    parts = [
        PNG_MAGIC,
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)),
    ]
    if color == 3:
        parts.append(chunk(b"PLTE", bytes(3 * 2 ** min(depth, 8))))
    if transparent:
        parts.append(chunk(b"tRNS", {0: b"\x00\x00", 2: bytes(6), 3: b"\x80" * 2}[color]))
    parts += before
    parts.append(chunk(b"IDAT", _zeros(_raw_bytes(width, height, depth * CHANNELS[color], interlaced))))
    return b"".join((*parts, chunk(b"IEND", b"")))


def profiles(count: int, inflated: int = 2**20) -> list[bytes]:
    """iCCP chunks that inflate to `inflated` bytes each."""
    return [chunk(b"iCCP", b"a\x00\x00" + _zeros(inflated))] * count


def compressed_texts(count: int, inflated: int = 2**20, *, international: bool = False) -> list[bytes]:
    """zTXt chunks, or iTXt ones, that inflate to `inflated` bytes each."""
    if international:
        return [chunk(b"iTXt", b"a\x00\x01\x00\x00\x00" + _zeros(inflated))] * count
    return [chunk(b"zTXt", b"a\x00\x00" + _zeros(inflated))] * count


def small_chunks(count: int, kind: bytes = b"tEXt", content: bytes = b"a\x00b") -> list[bytes]:
    """As many chunks of a few bytes."""
    return [chunk(kind, content)] * count


def animated(width: int, height: int, frames: int) -> bytes:
    """An APNG whose further frames are of one pixel each."""
    control = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0)
    before = [chunk(b"acTL", struct.pack(">II", frames, 0)), chunk(b"fcTL", control)]
    still = uniform(width, height, before=before)
    more, pixel = [], _zeros(4)
    for number in range(1, frames):
        control = struct.pack(">IIIIIHHBB", 2 * number - 1, 1, 1, 0, 0, 1, 10, 0, 0)
        more += [chunk(b"fcTL", control), chunk(b"fdAT", struct.pack(">I", 2 * number) + pixel)]
    return still[:-12] + b"".join(more) + still[-12:]


def _raw_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of the image data before compression: a filter byte and the samples of each row."""
    if not interlaced:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for left, top, across, down in ADAM7:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


@cache
def _zeros(count: int) -> bytes:
    """A zlib stream of so many zeros."""
    packer, block = zlib.compressobj(9), bytes(2**20)
    out = [packer.compress(block) for _ in range(count // len(block))]
    return b"".join((*out, packer.compress(bytes(count % len(block))), packer.flush()))
