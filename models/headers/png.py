"""PNG: header, orientation, frames; and the file without its metadata."""

from __future__ import annotations

import struct
import zlib

from models.errors import ImageInvalid
from models.headers.exif import read_orientation
from models.headers.header import MAX_CHUNKS, MAX_EXIF, Format, Header

MAGIC = b"\x89PNG\r\n\x1a\n"


def read(data: bytes) -> Header:
    """W3C PNG, section 5: chunks of length, type, data and CRC; the checks of the CRCs are the decoder's."""
    length, kind, width, height, depth, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ImageInvalid("the PNG does not begin with its header")
    stored = 4 if colour in (2, 4, 6) else 2 if depth == 16 else 1
    bits = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    orientation, at, frames = None, 33, 1
    for _ in range(MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        if kind in (b"", b"IEND"):
            break
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf" and orientation is None:
            orientation = read_orientation(data[at + 8 : at + 8 + min(length, MAX_EXIF)])
        elif kind == b"acTL" and length == 8:
            frames = int.from_bytes(data[at + 8 : at + 12], "big")
        at += 12 + length
    else:
        raise ImageInvalid(f"the PNG has more than {MAX_CHUNKS} chunks")
    return Header(
        Format.PNG,
        width,
        height,
        orientation or 1,
        complete=kind == b"IEND",
        frames=min(max(frames, 1), MAX_CHUNKS),
        stored=stored,
        raw=height * (width * bits + 7) // 8,
    )


_IMAGE = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})


def without_metadata(data: bytes) -> bytes:
    """A PNG of only the chunks that decide its pixels, and of an animation only its default image.

    A decoder would inflate colour profiles and texts, and refuse the image for their checksums. A
    transparency whose checksum is wrong is left out, as libpng does.
    """
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind in _IMAGE or (
            kind == b"tRNS"
            and end - at <= 12 + 256
            and zlib.crc32(data[at + 4 : end - 4]).to_bytes(4) == data[end - 4 : end]
        ):
            kept.append(data[at:end])
        if kind == b"IEND":
            break
        at = end
    return b"".join(kept)
