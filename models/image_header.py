"""What the first bytes of a picture tell before any pixel is decoded: its format, size and orientation.

The limits are enforced on these numbers, so a bomb (a few bytes that claim gigapixels) costs nothing. The
parsers are small, copy nothing large, and bound the number of segments that they walk.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum

from models.errors import ImageInvalid, MediaTypeUnsupported


class Format(StrEnum):
    """The accepted formats, told apart by their magic bytes and never by a declared media type."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    BMP = "BMP"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture.

    Attributes:
        format: the file's format.
        width, height: in pixels, as stored (before the orientation is applied); may be zero, never negative.
        orientation: EXIF orientation, 1 to 8; 1 (upright) where there is none or it makes no sense.
        components: channels of a JPEG (1 grey, 3 colour, 4 CMYK or YCCK); 0 for other formats.
        animated: a PNG with animation chunks; only its first frame is of interest.
        complete: False where the file ends before its picture can (known for JPEG and PNG); told, not raised,
            so that a size over the limit is refused as such.
    """

    format: Format
    width: int
    height: int
    orientation: int = 1
    components: int = 0
    animated: bool = False
    complete: bool = True


ACCEPTED = "image/jpeg, image/png, image/webp and image/bmp"

# Bounds on what a walk visits: far over what writers make, far under what would hold a thread for long.
_MAX_SEGMENTS = 1_000
_MAX_CHUNKS = 50_000
# A progressive JPEG repeats passes over the whole picture; a few kilobytes of empty scans cost minutes. In a
# baseline JPEG every scan needs a code for each block, so the limit of bytes bounds them.
_MAX_SCANS = 100

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_ORIENTATION_TAG = 0x0112


def read_header(data: bytes) -> Header:
    """Tells format, stored size and orientation of a picture file.

    Raises:
        MediaTypeUnsupported: the magic bytes are of no accepted format.
        ImageInvalid: they are, and the header after them is cut short or makes no sense.
    """
    if data.startswith(b"\xff\xd8\xff"):
        parser = _jpeg
    elif data.startswith(_PNG_MAGIC):
        parser = _png
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        parser = _webp
    elif data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        parser = _bmp
    else:
        raise MediaTypeUnsupported(f"the picture is of no accepted format; accepted are {ACCEPTED}")
    try:
        return parser(data)
    except (struct.error, IndexError) as error:
        raise ImageInvalid("the picture's header is cut short") from error


def read_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block (a TIFF structure), 1 to 8; 1 for a block that makes no sense."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(min(entries, _MAX_SEGMENTS)):
            at = directory + 2 + 12 * entry
            tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, at)
            if tag == _ORIENTATION_TAG and kind in (3, 4) and count == 1:  # 3 is SHORT; some writers use LONG
                (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", tiff, at + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


# A marker is 0xff and a code; 0xff00 is a stuffed byte and 0xffff a fill. Anything between is skipped.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}


def _jpeg(data: bytes) -> Header:
    """ITU-T T.81, annex B: segments up to the first scan."""
    frame: tuple[int, int, int] | None = None
    repeats = False
    orientation: int | None = None
    at, code = 2, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            break
        code, at = marker[1][0], marker.end()
        if code in (0xD8, 0xD9, 0xDA):  # another start, the end, or the first scan
            break
        if code in _JPEG_BARE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if code in _JPEG_FRAMES and frame is None:
            height, width, components = struct.unpack_from(">HHB", data, at + 3)
            frame, repeats = (width, height, components), code not in (0xC0, 0xC1)
        elif code == 0xE1 and orientation is None and data.startswith(b"Exif\x00\x00", at + 2):
            orientation = read_orientation(data[at + 8 : at + length])
        at += max(length, 2)
    if frame is None:
        raise ImageInvalid("the JPEG has no picture in it")
    if repeats and data.count(b"\xff\xda") > _MAX_SCANS:
        raise ImageInvalid(f"the JPEG has more than {_MAX_SCANS} scans")
    width, height, components = frame
    return Header(Format.JPEG, width, height, orientation or 1, components, complete=code == 0xDA)


def _png(data: bytes) -> Header:
    """W3C PNG, section 5: chunks of length, type, data and CRC; the checks of the CRCs are the decoder's."""
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ImageInvalid("the PNG does not begin with its header")
    orientation, animated, at = 1, False, 33
    for _ in range(_MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        if kind in (b"", b"IEND"):
            break
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf":
            orientation = read_orientation(data[at + 8 : at + 8 + length])
        animated = animated or kind == b"acTL"
        at += 12 + length
    else:
        raise ImageInvalid(f"the PNG has more than {_MAX_CHUNKS} chunks")
    return Header(Format.PNG, width, height, orientation, animated=animated, complete=kind == b"IEND")


def without_animation(data: bytes) -> bytes:
    """A PNG with its animation chunks left out: what a decoder without APNG sees, its first picture."""
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(data[at:end])
        if kind == b"IEND":
            break
        at = end
    return b"".join(kept)


def _webp(data: bytes) -> Header:
    """RFC 9649: a RIFF file whose first chunk is a lossy, a lossless or an extended picture."""
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header(Format.WEBP, width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and data[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header(Format.WEBP, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise ImageInvalid("the WebP does not begin with a picture")
    width_low, width_high, height_low, height_high = struct.unpack_from("<HBHB", data, 24)
    orientation, at = 1, 12
    for _ in range(_MAX_SEGMENTS if data[20] & 0x08 else 0):  # the flag says that an EXIF chunk follows
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            orientation = read_orientation(data[at + 8 : at + 8 + length])
            break
        at += 8 + length + length % 2
    return Header(
        Format.WEBP, (width_high << 16 | width_low) + 1, (height_high << 16 | height_low) + 1, orientation
    )


def _bmp(data: bytes) -> Header:
    """Windows and OS/2 bitmaps; a negative height means rows from the top."""
    if int.from_bytes(data[14:18], "little") in (12, 16):
        core = data[14] == 12
        width, height = struct.unpack_from("<HH" if core else "<II", data, 18)
    else:
        width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
        if compression not in (0, 3):  # run lengths and embedded files: rare, and slow or unsafe to decode
            raise MediaTypeUnsupported("a compressed BMP is not accepted")
    if width < 0:
        raise ImageInvalid("the BMP has a negative width")
    return Header(Format.BMP, width, abs(height))
