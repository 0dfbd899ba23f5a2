"""JPEG files (ITU-T T.81) that are expensive for their size: many scans, huge frames, rare frame types."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum

from loadtests import imagefiles
from loadtests.imagefiles import segment

STANDARD_DC = (bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]), bytes(range(12)))
"""Annex K.3.1: numbers of codes by length, and their values."""
STANDARD_AC = (
    bytes([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125]),
    bytes.fromhex(
        "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a"
        "3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a929394"
        "95969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8"
        "e9eaf1f2f3f4f5f6f7f8f9fa"
    ),
)
END = b"\xff\xd9"


class Frame(IntEnum):
    """Start-of-frame markers."""

    BASELINE = 0xC0
    EXTENDED = 0xC1
    PROGRESSIVE = 0xC2
    LOSSLESS = 0xC3
    DIFFERENTIAL = 0xC5
    ARITHMETIC = 0xC9
    ARITHMETIC_PROGRESSIVE = 0xCA
    ARITHMETIC_LOSSLESS = 0xCB


def empty(
    width: int,
    height: int,
    *,
    frame: Frame = Frame.BASELINE,
    scans: int = 1,
    sampling: Sequence[tuple[int, int]] = ((1, 1),) * 3,
    precision: int = 8,
    scan_data: bytes = b"",
    interleaved: bool = False,
    adobe: int | None = None,
    hierarchical: bool = False,
    restart: int = 0,
) -> bytes:
    """A JPEG whose scans hold nothing, or next to nothing: 10 bytes a scan.

    Args:
        width, height: at most 65,535 pixels.
        frame: coding process.
        scans: of one component each in turn, or of all components if `interleaved`.
        sampling: horizontal and vertical factors, of each component.
        precision: bits of a sample.
        scan_data: entropy-coded bytes of every scan.
        adobe: colour transform of an Adobe marker (0: none, 1: YCbCr, 2: YCCK); None: no marker.
        hierarchical: a DHP segment before the frame.
        restart: restart interval in MCUs; 0: none.
    """
    parts = [b"\xff\xd8"]
    if adobe is not None:
        parts.append(segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00" + bytes([adobe])))
    parts.append(segment(0xDB, b"\x00" + bytes([1] * 64)))
    if hierarchical:
        parts.append(imagefiles.frame(0xDE, height, width, sampling, precision))
    parts.append(imagefiles.frame(frame, height, width, sampling, precision))
    if frame < Frame.ARITHMETIC:
        parts += [_table(0, STANDARD_DC), _table(0x10, STANDARD_AC)]
    if restart:
        parts.append(segment(0xDD, struct.pack(">H", restart)))
    numbers = range(1, len(sampling) + 1)
    several = [scan(frame, numbers)] if interleaved else [scan(frame, [number]) for number in numbers]
    if frame in (Frame.PROGRESSIVE, Frame.ARITHMETIC_PROGRESSIVE):
        several += [scan(frame, [number], first=1) for number in numbers]
    parts += [several[index % len(several)] + scan_data for index in range(scans)]
    return b"".join(parts) + END


def scan(frame: Frame, components: Sequence[int], *, first: int = 0) -> bytes:
    """The header of a scan: from the coefficient `first` on, or with predictor 1 of a lossless frame."""
    selectors = b"".join(bytes([number, 0]) for number in components)
    if frame in (Frame.LOSSLESS, Frame.ARITHMETIC_LOSSLESS):
        spectral = b"\x01\x00\x00"
    elif frame in (Frame.PROGRESSIVE, Frame.ARITHMETIC_PROGRESSIVE):
        spectral = bytes([first, 63 if first else 0, 0])
    else:
        spectral = b"\x00\x3f\x00"
    return segment(0xDA, bytes([len(components)]) + selectors + spectral)


def lossless(width: int, height: int, *, components: int = 1) -> bytes:
    """A lossless JPEG (SOF3) that is valid: every difference is zero, a bit for each sample."""
    parts = [b"\xff\xd8", imagefiles.frame(Frame.LOSSLESS, height, width, ((1, 1),) * components)]
    parts.append(_table(0, (bytes([1, *[0] * 15]), b"\x00")))
    parts.append(scan(Frame.LOSSLESS, range(1, components + 1)))
    parts.append(bytes(-(-width * height * components // 8)))
    return b"".join(parts) + END


def with_scans(image: bytes, count: int) -> bytes:
    """A complete baseline JPEG with so many scans without data after its own.

    Args:
        image: a baseline JPEG with the component number 1, as Pillow writes it.
    """
    if not image.endswith(END):
        raise ValueError("the JPEG does not end with its end marker")
    return image[:-2] + scan(Frame.BASELINE, [1]) * count + END


def _table(kind: int, table: tuple[bytes, bytes]) -> bytes:
    counts, values = table
    return segment(0xC4, bytes([kind]) + counts + values)
