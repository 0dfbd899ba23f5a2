"""WebP files (RFC 9649) and BMP files that claim many pixels in a few bytes."""

from __future__ import annotations

import struct

from loadtests.imagefiles import bmp

ALPHA, ANIMATION = 0x10, 0x02
"""Flags of an extended WebP."""


def lossless(width: int, height: int, *, alpha: bool = False) -> bytes:
    """A lossless WebP of one colour, some 40 bytes whatever its size: every prefix code has one symbol.

    Args:
        width, height: at most 16,384 pixels.
        alpha: half transparent; opaque otherwise.
    """
    return _riff(_chunk(b"VP8L", _bitstream(width, height, alpha)))


def animation(width: int, height: int, frames: int, side: int = 1) -> bytes:
    """An animated WebP: a canvas, and frames of `side` x `side` pixels in its corner."""
    frame = (
        _short(0) * 2
        + _short(side - 1) * 2
        + _short(100)
        + b"\x00"
        + _chunk(b"VP8L", _bitstream(side, side, True))
    )
    body = _extended(width, height, ANIMATION | ALPHA) + _chunk(b"ANIM", bytes(6))
    return _riff(body + _chunk(b"ANMF", frame) * frames)


def extended(width: int, height: int) -> bytes:
    """The extended form of `lossless` with alpha."""
    return _riff(_extended(width, height, ALPHA) + _chunk(b"VP8L", _bitstream(width, height, True)))


def cut_lossy(width: int, height: int) -> bytes:
    """A lossy WebP that ends after its first partition's first zeros."""
    frame = b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(64)
    return _riff(_chunk(b"VP8 ", frame))


def bitmap(width: int, height: int, *, bits: int, data: bool = True, colors: int = 0) -> bytes:
    """A Windows bitmap of zeros.

    Args:
        width, height: pixels; a negative height puts the first row on top.
        bits: of a pixel.
        data: whether the pixels are there.
        colors: entries that the palette claims; 0: as many as it has.
    """
    row = (width * bits + 31) // 32 * 4
    palette = bytes(4 * (2**bits if bits <= 8 else 0))
    file = bmp(bits, 0, width, height, bytes(row * abs(height)) if data else b"", palette)
    return file[:46] + struct.pack("<I", colors) + file[50:] if colors else file


def _bitstream(width: int, height: int, alpha: bool) -> bytes:
    fields = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (int(alpha), 1)]
    fields += [(0, 3), (0, 1), (0, 1), (0, 1)]  # version, no transform, no colour cache, one group of codes
    for symbol in (200, 60, 40, 128 if alpha else 255, 0):  # green, red, blue, alpha, distance
        fields += [(1, 1), (0, 1), (1, 1), (symbol, 8)]  # a simple code of one symbol, which has eight bits
    value = length = 0
    for number, count in fields:  # the least significant bit first
        value, length = value | number << length, length + count
    return value.to_bytes(-(-length // 8), "little")


def _extended(width: int, height: int, flags: int) -> bytes:
    return _chunk(b"VP8X", bytes([flags, 0, 0, 0]) + _short(width - 1) + _short(height - 1))


def _short(value: int) -> bytes:
    """24 bits."""
    return value.to_bytes(3, "little")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2)


def _riff(body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
