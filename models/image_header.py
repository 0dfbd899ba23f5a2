"""Reads the headers of an image file before any pixel is decoded: format, size, orientation, scans.

The limits are enforced on these numbers, so a bomb (a few bytes that claim gigapixels) costs nothing. The
parsers are small, copy nothing large, and bound the number of segments that they walk. What they read is
what the libraries read: a file that two parsers could read in two ways is refused or rewritten
(`jpeg_without_metadata`).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from models.errors import ImageInvalid, MediaTypeUnsupported


class Format(StrEnum):
    """The accepted formats, recognised by their magic bytes and never by a declared media type."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    BMP = "BMP"


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame header of a JPEG that can be decoded: baseline, extended or progressive Huffman, 8 bits.

    Attributes:
        progressive: SOF2; otherwise SOF0 or SOF1.
        sampling: horizontal and vertical sampling factors of each component, 1 to 4.
        coefficients: that a decoder keeps for the whole image, 2 bytes each; 0 where it needs one pass only.
        scan_ns: upper estimate of the CPU time of all scans without their data, nanoseconds; 0 for one pass.
        regular: nothing but segments lies before the first scan.
    """

    progressive: bool
    sampling: tuple[tuple[int, int], ...]
    coefficients: int
    scan_ns: int
    regular: bool


@dataclass(frozen=True, slots=True)
class WebpImage:
    """Where a WebP's image, or an animation's first frame, is to be found.

    Attributes:
        width, height: in pixels, as the bitstream has them.
        lossless: VP8L; otherwise VP8.
        alpha: it may be transparent.
        chunk: begin and end of the bitstream's chunk within the file, its head included.
        plane: the same of the alpha plane's chunk; (0, 0) where there is none.
        left, top: where an animation's frame lies on its canvas.
    """

    width: int
    height: int
    lossless: bool
    alpha: bool
    chunk: tuple[int, int]
    plane: tuple[int, int] = (0, 0)
    left: int = 0
    top: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an image file.

    Attributes:
        format: the file's format.
        width, height: in pixels, as stored (before the orientation is applied); may be zero, never negative.
        orientation: EXIF orientation, 1 to 8; 1 (upright) where there is none or it makes no sense.
        components: channels of a JPEG (1 grey, 3 colour, 4 CMYK or YCCK); 0 for other formats.
        complete: False where the file ends before its image can (not known for BMP); reported, not raised, so
            that a size over the limit is refused as such.
        frame: of a JPEG; None for other formats.
        webp: of a WebP; None for other formats.
        stored: bytes that a PNG's or BMP's pixel takes in Pillow's memory; 0 for other formats.
        raw: bytes of all of a PNG's rows, inflated; 0 for other formats.
    """

    format: Format
    width: int
    height: int
    orientation: int = 1
    components: int = 0
    complete: bool = True
    frame: Frame | None = None
    webp: WebpImage | None = None
    stored: int = 0
    raw: int = 0


ACCEPTED = "image/jpeg, image/png, image/webp and image/bmp"

# Bounds on what a walk visits: far over what writers make, far under what would hold a thread for long.
_MAX_SEGMENTS = 1_000
_MAX_STRAY = 1 << 16  # bytes between a JPEG's segments, all together
_MAX_CHUNKS = 20_000
_MAX_EXIF = 1 << 16  # as long as a JPEG's can be; the orientation stands in its first directory
# A scan without data costs a pass over the coefficients all the same. Its cost for each block of 8 x 8
# samples, without the bytes that it reads: 13 to 20 ns for a baseline scan and for the DC
# coefficients, 5 to 8 for the first pass over AC coefficients, 30 to 45 for a refinement of them.
_NS_BASELINE, _NS_DC, _NS_AC, _NS_REFINEMENT = 20, 20, 10, 45
# libjpeg's own script for four components without subsampling, the slowest of the usual ones, takes 9.6 ns
# for each pixel; those for three components 5.5 and less.
SCAN_NS_PER_PIXEL = 10
_MAX_SCANS = 100  # writers make up to 24

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_WEBP_ANIMATION, _WEBP_EXIF = 0x02, 0x08
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_ORIENTATION_TAG = 0x0112


def read_header(data: bytes) -> Header:
    """Reads format, stored size and orientation of an image file.

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
        raise MediaTypeUnsupported(f"the image is of no accepted format; accepted are {ACCEPTED}")
    try:
        return parser(data)
    except (struct.error, IndexError) as error:
        raise ImageInvalid("the image's header is cut short") from error


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
# ITU-T T.81, table B.1. Cameras and editors write 0xc0 and 0xc2; 0xc1 with 8 bits differs in its tables only.
_JPEG_UNSUPPORTED = {
    0xC3: "a lossless",
    0xC5: "a hierarchical",
    0xC6: "a hierarchical",
    0xC7: "a hierarchical lossless",
    0xC9: "an arithmetic-coded",
    0xCA: "an arithmetic-coded",
    0xCB: "an arithmetic-coded lossless",
    0xCD: "a hierarchical arithmetic-coded",
    0xCE: "a hierarchical arithmetic-coded",
    0xCF: "a hierarchical arithmetic-coded lossless",
}
_JPEG_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}
_JPEG_TABLES = frozenset({0xC4, 0xDB, 0xDD})


def _jpeg(data: bytes) -> Header:
    """ITU-T T.81, annex B: segments up to the first scan, as libjpeg walks them."""
    frame: tuple[int, int] | None = None  # the marker's code and where its segment begins
    orientation: int | None = None
    regular = True
    at, code, stray = 2, 0, _MAX_STRAY
    for _ in range(_MAX_SEGMENTS):
        marker = _JPEG_MARKER.search(data, at, at + stray + 2)
        if marker is None:
            break
        stray -= marker.start() - at
        regular = regular and marker.start() == at
        code, at = marker[1][0], marker.end()
        if code in (0xD8, 0xD9, 0xDA):  # another start, the end, or the first scan
            break
        if code in _JPEG_BARE:
            regular = False
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if code in _JPEG_FRAMES:
            if frame is not None:
                raise ImageInvalid("the JPEG has more than one frame header")
            frame = code, at
        elif code == 0xE1 and orientation is None and data.startswith(b"Exif\x00\x00", at + 2):
            orientation = read_orientation(data[at + 8 : at + length])
        at += max(length, 2)
    if frame is None:
        raise ImageInvalid("the JPEG has no image in it")
    height, width, components = struct.unpack_from(">HHB", data, frame[1] + 3)
    return Header(
        Format.JPEG,
        width,
        height,
        orientation or 1,
        components,
        complete=code == 0xDA,
        frame=_frame(data, *frame, at, regular),
    )


def _frame(data: bytes, code: int, at: int, scan: int, regular: bool) -> Frame:
    """Checks a frame header and estimates the cost of the scans.

    Args:
        data: the file.
        code: of the frame's marker.
        at: where the frame's segment begins, behind the marker.
        scan: where the first scan's segment begins, behind the marker.
        regular: of the result.

    Raises:
        ImageInvalid: it makes no sense, or is of a kind that is not supported, or its scans cost too much.
    """
    if code in _JPEG_UNSUPPORTED:
        raise ImageInvalid(f"{_JPEG_UNSUPPORTED[code]} JPEG is not supported")
    length, precision, height, width, count = struct.unpack_from(">HBHHB", data, at)
    if precision != 8:
        raise ImageInvalid(f"a {precision}-bit JPEG is not supported; only 8-bit ones are")
    if length != 8 + 3 * count or count not in (1, 3, 4) or len(data) < at + length:
        raise ImageInvalid("the JPEG's frame header makes no sense")
    numbers = data[at + 8 : at + 8 + 3 * count : 3]
    sampling = tuple((byte >> 4, byte & 15) for byte in data[at + 9 : at + 8 + 3 * count : 3])
    if any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in sampling):
        raise ImageInvalid("the JPEG's frame header makes no sense")
    progressive = code == 0xC2
    if not progressive and data[scan + 2 : scan + 3] == bytes([count]):
        return Frame(False, sampling, 0, 0, regular)  # one pass holds all; what follows it is not read
    across = -(-width // (8 * max(h for h, _ in sampling)))
    down = -(-height // (8 * max(v for _, v in sampling)))
    blocks: dict[int, int] = {}  # of a component's number; a number that stands twice at the higher cost
    for number, (h, v) in zip(numbers, sampling, strict=True):
        blocks[number] = max(blocks.get(number, 0), across * h * down * v)
    coefficients = 64 * sum(across * h * down * v for h, v in sampling)
    return Frame(progressive, sampling, coefficients, _scan_ns(data, scan - 2, progressive, blocks), regular)


def _scan_ns(data: bytes, start: int, progressive: bool, blocks: dict[int, int]) -> int:
    """The cost of all scans. A scan begins with the bytes ff da; those that a scan cannot begin with, as in
    other segments or behind the image, are left out, others counted even there."""
    total, scans = 0, 0
    for at in _pairs(data, b"\xff\xda", start):
        length, count = (
            int.from_bytes(data[at + 2 : at + 4], "big"),
            data[at + 4] if at + 4 < len(data) else 0,
        )
        if not 1 <= count <= 4 or length != 6 + 2 * count:
            continue
        numbers = data[at + 5 : at + 5 + 2 * count : 2]
        if len(data) < at + 2 + length or any(number not in blocks for number in numbers):
            continue
        first, refines = data[at + 5 + 2 * count], data[at + 7 + 2 * count] >> 4
        if not progressive:
            price = _NS_BASELINE
        elif first == 0:
            price = _NS_DC
        else:
            price = _NS_REFINEMENT if refines else _NS_AC
        total += price * sum(blocks[number] for number in numbers)
        scans += 1
        if scans > _MAX_SCANS:
            raise ImageInvalid(f"the JPEG has more than {_MAX_SCANS} scans")
    return total


def _pairs(data: bytes, pair: bytes, start: int) -> list[int]:
    """Where two bytes stand next to each other from `start` on, in rising order; 0.2 ms for each MiB.

    Raises:
        ImageInvalid: in more places than chance explains in a file of this size.
    """
    value = int.from_bytes(pair, "little")
    most = _MAX_SCANS + len(data) // 8_192
    places: list[int] = []
    for offset in (start, start + 1):
        count = (len(data) - offset) // 2
        if count > 0:
            there = np.frombuffer(data, "<u2", count, offset) == value
            if np.count_nonzero(there) + len(places) > most:
                raise ImageInvalid(f"the JPEG has more than {_MAX_SCANS} scans")
            places += (np.flatnonzero(there) * 2 + offset).tolist()
    return sorted(places)


def jpeg_without_metadata(data: bytes, components: int) -> bytes:
    """A JPEG of only what decides its pixels: tables, frame, Adobe's transform, scans.

    Stray bytes, fill bytes and unknown segments before the first scan are left out, so that all parsers read
    the same of it. The file is one that `read_header` accepts, of so many components.
    """
    kept, at = [b"\xff\xd8"], 2
    while (marker := _JPEG_MARKER.search(data, at)) is not None:
        code, begin = marker[1][0], marker.end()
        if code == 0xDA:
            kept.append(data[begin - 2 :])
            break
        at = begin
        if code in _JPEG_BARE:
            continue
        at += max(int.from_bytes(data[begin : begin + 2], "big"), 2)
        if code in _JPEG_TABLES or code in _JPEG_FRAMES:
            kept.append(data[begin - 2 : at])
        elif code == 0xEE and data.startswith(b"Adobe", begin + 2) and at - begin >= 14:
            # an unknown transform is taken for the usual one, as libjpeg does after a warning
            transform = 0 if data[begin + 13] == 0 else 2 if components == 4 else 1
            kept.append(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]))
        elif code == 0xE0 and data.startswith(b"JFIF\x00", begin + 2) and at - begin >= 16:
            kept.append(b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")
    return b"".join(kept)


def _png(data: bytes) -> Header:
    """W3C PNG, section 5: chunks of length, type, data and CRC; the checks of the CRCs are the decoder's."""
    length, kind, width, height, depth, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ImageInvalid("the PNG does not begin with its header")
    stored = 4 if colour in (2, 4, 6) else 2 if depth == 16 else 1
    bits = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    orientation, at = None, 33
    for _ in range(_MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        if kind in (b"", b"IEND"):
            break
        length = int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf" and orientation is None:
            orientation = read_orientation(data[at + 8 : at + 8 + min(length, _MAX_EXIF)])
        at += 12 + length
    else:
        raise ImageInvalid(f"the PNG has more than {_MAX_CHUNKS} chunks")
    return Header(
        Format.PNG,
        width,
        height,
        orientation or 1,
        complete=kind == b"IEND",
        stored=stored,
        raw=height * (width * bits + 7) // 8,
    )


_PNG_IMAGE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


def png_without_metadata(data: bytes) -> bytes:
    """A PNG of only the chunks that decide its pixels, and of an animation only its default image.

    A decoder would inflate colour profiles and texts, and refuse the image for their checksums.
    """
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind in _PNG_IMAGE:
            kept.append(data[at:end])
        if kind == b"IEND":
            break
        at = end
    return b"".join(kept)


def _webp(data: bytes) -> Header:
    """RFC 9649: a RIFF file whose first chunk is a lossy, a lossless or an extended image."""
    kind = data[12:16]
    if kind in (b"VP8 ", b"VP8L"):
        image = _webp_image(data, 12, len(data))
        if image is None:
            raise ImageInvalid("the WebP does not begin with an image")
        return Header(
            Format.WEBP, image.width, image.height, complete=image.chunk[1] <= len(data), webp=image
        )
    if kind != b"VP8X":
        raise ImageInvalid("the WebP does not begin with an image")
    width_low, width_high, height_low, height_high = struct.unpack_from("<HBHB", data, 24)
    width, height = (width_high << 16 | width_low) + 1, (height_high << 16 | height_low) + 1
    animated, told = (bool(data[20] & flag) for flag in (_WEBP_ANIMATION, _WEBP_EXIF))
    wanted = (b"ANMF",) if animated else (b"ALPH", b"VP8 ", b"VP8L")
    orientation, at, image, found = 1, 12, None, False
    for _ in range(_MAX_SEGMENTS):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length
        if kind in wanted and not found:
            found = True
            parse = _webp_frame if animated else _webp_image
            image = parse(data, at, min(end, len(data)) if animated else len(data))
        elif kind == b"EXIF" and told:
            orientation, told = read_orientation(data[at + 8 : at + 8 + min(length, _MAX_EXIF)]), False
        if kind == b"" or (found and not told):
            break
        at = end + length % 2
    if image is not None and not animated and (image.width, image.height) != (width, height):
        raise ImageInvalid("the WebP tells its size in two ways")
    complete = image is not None and image.chunk[1] <= len(data)
    return Header(Format.WEBP, width, height, orientation, complete=complete, webp=image)


def _webp_frame(data: bytes, at: int, end: int) -> WebpImage | None:
    """The image of an animation's frame (RFC 9649, 2.7.1.2), whose chunk begins at `at`."""
    x_low, x_high, y_low, y_high = struct.unpack_from("<HBHB", data, at + 8)
    image = _webp_image(data, at + 24, end)
    return image and replace(image, left=2 * (x_high << 16 | x_low), top=2 * (y_high << 16 | y_low))


def _webp_image(data: bytes, at: int, end: int) -> WebpImage | None:
    """The first bitstream from the chunk at `at` on and before `end`, with the alpha plane before it."""
    plane = (0, 0)
    for _ in range(_MAX_SEGMENTS):
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


def _bmp(data: bytes) -> Header:
    """Windows and OS/2 bitmaps; a negative height means rows from the top."""
    if int.from_bytes(data[14:18], "little") in (12, 16):
        core = data[14] == 12
        width, height, _, bits = struct.unpack_from("<HHHH" if core else "<IIHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        if compression not in (0, 3):  # run lengths and embedded files: rare, and slow or unsafe to decode
            raise MediaTypeUnsupported("a compressed BMP is not accepted")
    if width < 0:
        raise ImageInvalid("the BMP has a negative width")
    return Header(Format.BMP, width, abs(height), stored=1 if bits <= 8 else 4)
