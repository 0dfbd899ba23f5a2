"""The memory that a plan tells is what decoding takes, at most: large images, each in a child process."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import pytest
from PIL import Image

from loadtests.fuzz.decode_fuzz import Case, check
from loadtests.imagefiles import (
    COLOUR,
    PNG_MAGIC,
    Scan,
    bmp,
    chunk,
    empty_bands,
    heif_grid,
    jpeg,
)
from models.image import DEFAULT_LIMITS, plan
from tests.models.image.test_decode import orientation_block
from tests.paths import ROOT

HEIGHT, WIDTH = 2_500, 4_000


def saved(kind: str, mode: str, colour: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT), colour).save(stream, kind, **options)
    return stream.getvalue()


def png(depth: int, colour: int, interlaced: int) -> bytes:
    """Zeros, all rows filtered by the last filter."""
    bits = depth * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    steps = [(8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2)] if interlaced else [(1, 1)]
    packer = zlib.compressobj(1)
    rows = b"".join(
        packer.compress((b"\x04" + bytes(WIDTH // across * bits // 8)) * (HEIGHT // down))
        for across, down in steps
    )
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)
    idat = chunk(b"IDAT", rows + packer.flush())
    return PNG_MAGIC + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


def webp_of_groups(side: int) -> bytes:
    """A lossless WebP, side x side, with a group of prefix codes for each 4 x 4 pixels: the most."""
    groups = min(65_536, (side // 4) ** 2)
    single = "1000"  # a simple code of one symbol, 0

    def even(zeros: int) -> str:
        """A code of 256 symbols of 8 bits each, and so many unused ones behind."""
        lengths = "".join("100" if place in (1, 11) else "000" for place in range(12))  # of 18 and of 8
        return "0" + "0001" + lengths + "0" + "0" * 256 + ("1" + f"{zeros - 11:07b}"[::-1] if zeros else "")

    head = f"{0x2F:08b}"[::-1] + 2 * f"{side - 1:014b}"[::-1] + "0" + "000"
    bits = [head, "0", "0", "1", "000", "0", even(24), even(0), single * 3]
    for group in range((side // 4) ** 2):
        number = group % groups
        bits.append(f"{number & 255:08b}{number >> 8:08b}")  # prefix codes begin with their highest bits
    text = "".join([*bits, single * 5 * groups, "0" * 64])
    data = bytes(int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8))
    data += bytes(len(data) % 2)
    chunks = b"WEBPVP8L" + len(data).to_bytes(4, "little") + data
    return b"RIFF" + len(chunks).to_bytes(4, "little") + chunks


def progressive(sampling: tuple[tuple[int, int], ...]) -> bytes:
    numbers = tuple(range(1, len(sampling) + 1))
    blocks = empty_bands(HEIGHT * WIDTH // 64 + 2_000)
    scans = [Scan(numbers, 0, 0), *[Scan((number,), 1, 63, data=blocks) for number in numbers]]
    return jpeg(0xC2, HEIGHT, WIDTH, sampling, scans)


def heic(name: str) -> bytes:
    return (ROOT / "loadtests" / "fuzz" / "heic" / f"{name}.heic").read_bytes()


EXIF = b"Exif\x00\x00" + orientation_block(6)
KINDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved("JPEG", "RGB", "teal"),
    "jpeg cmyk": lambda: saved("JPEG", "CMYK", (9, 9, 9, 9)),
    "jpeg turned": lambda: saved("JPEG", "RGB", "teal", exif=EXIF),
    "jpeg progressive": lambda: saved("JPEG", "RGB", "teal", progressive=True, subsampling=0),
    "jpeg progressive cmyk": lambda: saved("JPEG", "CMYK", (9, 9, 9, 9), progressive=True),
    "jpeg empty": lambda: jpeg(0xC0, HEIGHT, WIDTH, COLOUR, [Scan((1,)), Scan((2,)), Scan((3,))]),
    "jpeg odd": lambda: jpeg(0xC0, HEIGHT, WIDTH, ((3, 1), (1, 1), (1, 1)), [Scan((1, 2, 3))]),
    "jpeg odd progressive": lambda: progressive(((3, 1), (1, 2), (1, 1))),
    "png rgb": lambda: png(8, 2, 0),
    "png rgba": lambda: png(8, 6, 0),
    "png rgba interlaced": lambda: png(8, 6, 1),
    "png rgba 16": lambda: png(16, 6, 1),
    "png rgb 16": lambda: png(16, 2, 0),
    "png grey 16": lambda: png(16, 0, 0),
    "png grey alpha": lambda: png(8, 4, 0),
    "png grey 1": lambda: png(1, 0, 0),
    "png turned": lambda: saved("PNG", "RGB", "teal", exif=EXIF),
    "webp": lambda: saved("WEBP", "RGB", "teal", method=0),
    "webp lossless": lambda: saved("WEBP", "RGB", "teal", lossless=True, method=0, quality=0),
    "webp alpha": lambda: saved("WEBP", "RGBA", (9, 9, 9, 9), method=0),
    "webp lossless alpha": lambda: saved("WEBP", "RGBA", (9, 9, 9, 9), lossless=True, method=0, quality=0),
    "webp of groups": lambda: webp_of_groups(1_024),
    "bmp 1": lambda: saved("BMP", "1", 1),
    "bmp run lengths": lambda: bmp(
        8, 1, WIDTH, HEIGHT, (b"\xff\x07" * 15 + b"\xaf\x07\x00\x00") * HEIGHT, bytes(1024)
    ),
    "gif": lambda: saved("GIF", "P", 7),
    "gif, smaller frame": lambda: saved("GIF", "P", 7).replace(b"\xa0\x0f\xc4\x09", b"\xa1\x0f\xc5\x09", 1),
    "tiff lzw": lambda: saved("TIFF", "RGB", "teal", compression="tiff_lzw"),
    "tiff deflate, one strip": lambda: saved(
        "TIFF", "RGBA", (9, 9, 9, 9), compression="tiff_adobe_deflate", tiffinfo={278: HEIGHT}
    ),
    "tiff jpeg": lambda: saved("TIFF", "RGB", "teal", compression="jpeg"),
    "tiff 16 bit": lambda: saved("TIFF", "I;16", 700, compression="tiff_lzw"),
    "avif": lambda: saved("AVIF", "RGB", "teal", speed=10),
    "avif 4:4:4 alpha": lambda: saved("AVIF", "RGBA", (9, 9, 9, 9), subsampling="4:4:4", speed=10),
    "heic": lambda: heif_grid(heic("flat"), 10, 16, WIDTH, HEIGHT),
    "heic 12 bit": lambda: heif_grid(heic("flat12"), 10, 16, WIDTH, HEIGHT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_memory_than_planned(kind: str) -> None:
    data = KINDS[kind]()
    ways = ((None, None), (224, None), (None, 1_000_000))
    for min_side, max_pixels in ways:
        # what a lossless WebP's tables take is not told by its head
        most = 21 * HEIGHT * WIDTH + (450_000_000 if kind.startswith("webp") else 0)
        assert plan(data, min_side=min_side, max_pixels=max_pixels).memory < most
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # a process of its own, whose memory nothing else takes
        cv2.setNumThreads(0)
        found = []
        for min_side, max_pixels in ways:
            found.append(check(Case(data, min_side, max_pixels), DEFAULT_LIMITS) or "")
        os.write(writing, " ".join(found).strip().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        wrong = told.read()
    assert os.waitpid(child, 0)[1] == 0
    assert wrong == ""
