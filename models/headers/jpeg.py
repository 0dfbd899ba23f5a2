"""JPEG: the frame header, the scans' cost, the orientation; and the file without its metadata."""

from __future__ import annotations

import re
import struct
from functools import lru_cache

import numpy as np

from models.errors import ImageInvalid
from models.headers.exif import read_orientation
from models.headers.header import MAX_SEGMENTS, Format, Frame, Header

_MAX_STRAY = 1 << 16  # bytes between a JPEG's segments, all together
# A scan without data costs a pass over the coefficients all the same. Its cost for each block of 8 x 8
# samples, without the bytes that it reads: 13 to 20 ns for a baseline scan and for the DC
# coefficients, 5 to 8 for the first pass over AC coefficients, 30 to 45 for a refinement of them.
_NS_BASELINE, _NS_DC, _NS_AC, _NS_REFINEMENT = 20, 20, 10, 45
# libjpeg's own script for four components without subsampling, the slowest of the usual ones, takes 9.6 ns
# for each pixel; those for three components 5.5 and less.
SCAN_NS_PER_PIXEL = 10
_MAX_SCANS = 100  # writers make up to 24

# A marker is 0xff and a code; 0xff00 is a stuffed byte and 0xffff a fill. Anything between is skipped.
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_SEGMENT = struct.Struct(">BBH")  # a marker and its segment's length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# ITU-T T.81, table B.1. Cameras and editors write 0xc0 and 0xc2; 0xc1 with 8 bits differs in its tables only.
_UNSUPPORTED = {
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
_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}
_TABLES = frozenset({0xC4, 0xDB, 0xDD})
_ENDS = frozenset({0xD8, 0xD9, 0xDA})  # another start, the end, or the first scan
_LOOKED_AT = _ENDS | _BARE | _FRAMES | {0xE1}


def read(data: bytes) -> Header:
    """ITU-T T.81, annex B: segments up to the first scan, as libjpeg walks them."""
    frame: tuple[int, int] | None = None  # the marker's code and where its segment begins
    orientation: int | None = None
    at, code, stray = 2, 0, _MAX_STRAY
    whole = len(data) - _SEGMENT.size
    for _ in range(MAX_SEGMENTS):
        lead, follows, length = _SEGMENT.unpack_from(data, at) if at <= whole else (0, 0, 0)
        if lead == 0xFF and 0 < follows < 0xFF:  # as most are
            code, at = follows, at + 2
        else:
            marker = _MARKER.search(data, at, at + stray + 2)
            if marker is None:
                break
            stray -= marker.start() - at
            code, at = marker[1][0], marker.end()
            length = int.from_bytes(data[at : at + 2], "big")
        if code in _LOOKED_AT:
            if code in _ENDS:
                break
            if code in _BARE:
                continue
            if code in _FRAMES:
                if frame is not None:
                    raise ImageInvalid("the JPEG has more than one frame header")
                frame = code, at
            elif orientation is None and data.startswith(b"Exif\x00\x00", at + 2):
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
        layout=_frame(data, *frame, at),
    )


def _frame(data: bytes, code: int, at: int, scan: int) -> Frame:
    """Checks a frame header and estimates the cost of the scans.

    Args:
        data: the file.
        code: of the frame's marker.
        at: where the frame's segment begins, behind the marker.
        scan: where the first scan's segment begins, behind the marker.

    Raises:
        ImageInvalid: it makes no sense, or is of a kind that is not supported, or its scans cost too much.
    """
    if code in _UNSUPPORTED:
        raise ImageInvalid(f"{_UNSUPPORTED[code]} JPEG is not supported")
    length, precision, height, width, count = struct.unpack_from(">HBHHB", data, at)
    if precision != 8:
        raise ImageInvalid(f"a {precision}-bit JPEG is not supported; only 8-bit ones are")
    if length != 8 + 3 * count or count not in (1, 3, 4) or len(data) < at + length:
        raise ImageInvalid("the JPEG's frame header makes no sense")
    numbers = data[at + 8 : at + 8 + 3 * count : 3]
    sampling = _sampling(bytes(data[at + 9 : at + 8 + 3 * count : 3]))
    progressive = code == 0xC2
    if not progressive and data[scan + 2 : scan + 3] == bytes([count]):
        return Frame(sampling, 0, 0)  # one pass holds all; what follows it is not read
    across = -(-width // (8 * max(h for h, _ in sampling)))
    down = -(-height // (8 * max(v for _, v in sampling)))
    blocks: dict[int, int] = {}  # of a component's number; a number that stands twice at the higher cost
    for number, (h, v) in zip(numbers, sampling, strict=True):
        blocks[number] = max(blocks.get(number, 0), across * h * down * v)
    coefficients = 64 * sum(across * h * down * v for h, v in sampling)
    return Frame(sampling, coefficients, _scan_ns(data, scan - 2, progressive, blocks))


@lru_cache(maxsize=64)  # there are few
def _sampling(factors: bytes) -> tuple[tuple[int, int], ...]:
    """
    Raises:
        ImageInvalid: a factor is not of 1 to 4.
    """
    sampling = tuple((byte >> 4, byte & 15) for byte in factors)
    if any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in sampling):
        raise ImageInvalid("the JPEG's frame header makes no sense")
    return sampling


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


def without_metadata(data: bytes, components: int) -> bytes:
    """A JPEG of only what decides its pixels: tables, frame, Adobe's transform, scans.

    Stray bytes, fill bytes and unknown segments before the first scan are left out, so that all parsers read
    the same of it. The file is one that `read_header` accepts, of so many components.
    """
    kept, at = [b"\xff\xd8"], 2
    while (marker := _MARKER.search(data, at)) is not None:
        code, begin = marker[1][0], marker.end()
        if code == 0xDA:
            kept.append(data[begin - 2 :])
            break
        at = begin
        if code in _BARE:
            continue
        at += max(int.from_bytes(data[begin : begin + 2], "big"), 2)
        if code in _TABLES or code in _FRAMES:
            kept.append(data[begin - 2 : at])
        elif code == 0xEE and data.startswith(b"Adobe", begin + 2) and at - begin >= 14:
            # an unknown transform is taken for the usual one, as libjpeg does after a warning
            transform = 0 if data[begin + 13] == 0 else 2 if components == 4 else 1
            kept.append(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]))
        elif code == 0xE0 and data.startswith(b"JFIF\x00", begin + 2) and at - begin >= 16:
            kept.append(b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")
    return b"".join(kept)
