"""BMP: size, layout of the pixels, palette."""

from __future__ import annotations

import struct

from models.errors import ImageInvalid, MediaTypeUnsupported
from models.headers.header import Bitmap, Format, Header

SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
"""Bytes of the headers that there are: OS/2, and Windows' versions."""
_RGB, _RLE8, _RLE4, _FIELDS, _JPEG, _PNG, _ALPHA_FIELDS = range(7)
_OS2 = (12, 16, 64)
_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 24: (0, 0, 0, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}


def read(data: bytes) -> Header:
    """Windows and OS/2 bitmaps; a negative height means rows from the top."""
    begin, size = struct.unpack_from("<II", data, 10)
    compression = used = 0
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif size == 16:
        width, height, _, bits = struct.unpack_from("<IIHH", data, 18)
    else:
        width, height, _, bits, compression, _, _, _, used = struct.unpack_from("<iiHHIIiiI", data, 18)
    if width < 0:
        raise ImageInvalid("the BMP has a negative width")
    kinds = {
        _RGB: (1, 2, 4, 8, 16, 24, 32),
        _RLE8: (8,),
        _RLE4: (4,),
        _FIELDS: (16, 32),
        _ALPHA_FIELDS: (16, 32),
    }
    if compression in (_JPEG, _PNG) or (size in _OS2 and compression not in (_RGB, _RLE8, _RLE4)):
        inside = {_JPEG: "a JPEG", _PNG: "a PNG"}.get(compression, "compressed pixels of its kind")
        raise MediaTypeUnsupported(f"a BMP with {inside} in it is not supported")
    if bits not in kinds.get(compression, ()):
        raise ImageInvalid(f"a BMP of {bits} bits a pixel and compression {compression} makes no sense")
    if compression in (_RLE8, _RLE4) and height < 0:
        raise ImageInvalid("a run-length coded BMP cannot have its rows from the top")
    masks, at = _MASKS.get(bits, (0, 0, 0, 0)), 14 + size
    if compression in (_FIELDS, _ALPHA_FIELDS):
        alpha = compression == _ALPHA_FIELDS or size >= 56
        red, green, blue, *rest = struct.unpack_from("<IIII" if alpha else "<III", data, 54)
        most = (1 << bits) - 1
        masks = red & most, green & most, blue & most, rest[0] & most if rest else 0
        if size == 40:
            at += 16 if alpha else 12
    entry = 3 if size == 12 else 4
    colours = 0 if bits > 8 else min(used, 1 << bits) if used else 1 << bits
    # a file may have fewer colours than it says, where its pixels begin before their end
    palette = at, max(at, min(at + colours * entry, begin if begin > at else at + colours * entry, len(data)))
    row = (width * bits + 31) // 32 * 4
    rows = 1 if compression in (_RLE8, _RLE4) else row * abs(height)
    return Header(
        Format.BMP,
        width,
        abs(height),
        complete=begin + rows <= len(data) + 3,  # some writers leave out what pads the last row
        layout=Bitmap(bits, compression in (_RLE8, _RLE4), masks, palette, entry, begin, height < 0),
    )
