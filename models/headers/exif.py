"""The orientation in an EXIF block."""

from __future__ import annotations

import struct

from models.headers.header import MAX_SEGMENTS

_ORIENTATION_TAG = 0x0112


def read_orientation(exif: bytes) -> int | None:
    """The orientation in an EXIF block (a TIFF structure), 1 to 8; None where there is none or no sense."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(min(entries, MAX_SEGMENTS)):
            at = directory + 2 + 12 * entry
            tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, at)
            if tag == _ORIENTATION_TAG and kind in (3, 4) and count == 1:  # 3 is SHORT; some writers use LONG
                (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", tiff, at + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:
        pass
    return None
