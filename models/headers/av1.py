"""AV1: what an image item holds that costs time, by the heads of its units (AV1 Bitstream, 5.3 to 5.5)."""

from __future__ import annotations

from models.errors import ImageInvalid
from models.headers.bits import Bits
from models.headers.header import MAX_SEGMENTS

_SEQUENCE, _FRAME_HEADER, _TILES, _FRAME, _REPEATED_HEADER = 1, 3, 4, 6, 7
_HEAD = 256  # bytes of a sequence header that are read; those of encoders have 10 to 20


def units(data: bytes, begin: int, end: int) -> tuple[tuple[tuple[int, int], ...], tuple[int, int], int]:
    """The units of an item that are its image.

    Args:
        data: the file.
        begin, end: of the item within it.

    Returns:
        Begins and ends of them, without metadata; the width and height that no frame exceeds; the frames.

    Raises:
        ImageInvalid: it is no AV1 image.
        IndexError: it is cut short.
    """
    kept: list[tuple[int, int]] = []
    size: tuple[int, int] | None = None
    frames, at = 0, begin
    for _ in range(MAX_SEGMENTS):
        if at >= end:
            break
        head, first = data[at], at
        kind, sized = head >> 3 & 15, head & 2
        at += 2 if head & 4 else 1
        length = end - at
        if sized:
            length, at = _leb128(data, at)
        if head & 0x80 or length > end - at:
            raise ImageInvalid("the AVIF's image is cut short or corrupt")
        if kind == _SEQUENCE:
            coded = _size(Bits(data[at : min(at + length, at + _HEAD)]))
            if size not in (None, coded):
                raise ImageInvalid("the AVIF tells its size in two ways")
            size = coded
        frames += kind in (_FRAME_HEADER, _FRAME)
        if kind in (_SEQUENCE, _FRAME_HEADER, _TILES, _FRAME, _REPEATED_HEADER):
            kept.append((first, at + length))
        at += length
    else:
        raise ImageInvalid(f"the AVIF's image has more than {MAX_SEGMENTS} units")
    if size is None or not frames:
        raise ImageInvalid("the AVIF has no image in it")
    return tuple(kept), size, frames


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, at + index + 1
    raise ImageInvalid("the AVIF's image is corrupt")


def _size(bits: Bits) -> tuple[int, int]:
    """Largest width and height of a sequence header (5.5.1)."""
    bits.read(3 + 1)
    if bits.read(1):  # reduced_still_picture_header
        bits.read(5)
    else:
        delay = _timing(bits) if bits.read(1) else None
        displayed = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if delay is not None and bits.read(1):
                bits.read(2 * delay + 1)
            if displayed and bits.read(1):
                bits.read(4)
    across, down = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(across) + 1, bits.read(down) + 1


def _timing(bits: Bits) -> int | None:
    """Timing and, if there is one, the decoder model: the bits of its delays (5.5.3, 5.5.4)."""
    bits.read(64)
    if bits.read(1):
        bits.exponential()
    if not bits.read(1):
        return None
    delay = bits.read(5) + 1
    bits.read(32 + 5 + 5)
    return delay
