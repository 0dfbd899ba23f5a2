"""Valid image files of every kind, by format."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtests.hostile.png import ADAM7, CHANNELS
from loadtests.imagefiles import (
    COLOUR,
    PNG_MAGIC,
    Scan,
    bmp,
    chunk,
    empty_bands,
    entropy,
    heif_grid,
    jpeg,
    segment,
)

Pixels = NDArray[np.uint8]

SAMPLINGS = (
    COLOUR,
    ((2, 2), (1, 1), (1, 1)),
    ((4, 1), (1, 1), (1, 1)),
    ((3, 1), (1, 2), (1, 1)),
    ((2, 1), (2, 1), (2, 1)),
    ((1, 1),),
    ((1, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 2), (1, 1), (1, 1), (2, 2)),
)


@cache
def seeds() -> dict[str, tuple[bytes, ...]]:
    """Files by format."""
    return {
        "jpeg": tuple(_jpegs()),
        "png": tuple(_pngs()),
        "webp": tuple(_webps()),
        "bmp": tuple(_bmps()),
        "gif": tuple(_gifs()),
        "tiff": tuple(_tiffs()),
        "avif": tuple(_avifs()),
        "heic": tuple(heics()),
    }


def _pixels(height: int, width: int) -> Pixels:
    generator = np.random.default_rng(height)
    y, x = np.mgrid[0:height, 0:width]
    ramp = np.stack((x * 3, y * 2, x + y), -1)
    return (ramp % 200 + generator.integers(0, 40, ramp.shape)).astype(np.uint8)


def _saved(pixels: Pixels, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def _exif(orientation: int) -> bytes:
    entry = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
    return b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + entry + bytes(4)


def _jpegs() -> Iterator[bytes]:
    for pixels in (_pixels(67, 90), _pixels(200, 131), _pixels(9, 5)):
        for progressive in (False, True):
            for subsampling in (0, 1, 2):
                yield _saved(pixels, "JPEG", progressive=progressive, subsampling=subsampling)
            for mode in ("L", "CMYK"):
                yield _saved(pixels, "JPEG", mode, progressive=progressive)
            yield _saved(pixels, "JPEG", progressive=progressive, restart_marker_blocks=2, quality=30)
        yield _saved(pixels, "JPEG", keep_rgb=True)
        yield _saved(pixels, "JPEG", exif=_exif(6), quality=20)
        adobe = _saved(pixels, "JPEG", "CMYK")
        at = adobe.index(b"Adobe") + 11
        yield adobe[:at] + b"\x02" + adobe[at + 1 :]  # YCCK
    for orientation in range(1, 9):
        thumbnail = segment(0xE1, _exif(orientation) + _saved(_pixels(9, 5), "JPEG"))
        plain = _saved(_pixels(40, 60), "JPEG", quality=40)
        yield plain[:2] + thumbnail + plain[2:]
    noise = entropy("011010011" * 3_000)
    for sampling in SAMPLINGS:
        numbers = tuple(range(1, len(sampling) + 1))
        yield jpeg(0xC0, 100, 77, sampling, [Scan(numbers, data=noise)])
        yield jpeg(0xC1, 33, 150, sampling, [Scan((number,), data=noise) for number in numbers])
        scans = [Scan(numbers, 0, 0, 0, 1, noise)]
        scans += [Scan((number,), 1, 63, 0, 1, noise) for number in numbers]
        scans += [Scan((number,), 1, 63, 1, 0, empty_bands(500)) for number in numbers]
        yield jpeg(0xC2, 130, 99, sampling, scans)
        for code in (0xC3, 0xC9, 0xCA):
            yield jpeg(code, 520, 300, sampling, [Scan(numbers, 1, 0, data=noise)])


def _pngs() -> Iterator[bytes]:
    random = Random(1)
    palette = chunk(b"PLTE", random.randbytes(768))
    for colour, depths in (
        (0, (1, 2, 4, 8, 16)),
        (2, (8, 16)),
        (3, (1, 2, 4, 8)),
        (4, (8, 16)),
        (6, (8, 16)),
    ):
        for depth in depths:
            for interlaced in (0, 1):
                yield png(random, 37, 29, depth, colour, interlaced, palette if colour == 3 else b"")
    for colour, transparent in ((0, b"\x00\x01"), (2, bytes(6)), (3, bytes(range(0, 250, 9)))):
        extra = (palette if colour == 3 else b"") + chunk(b"tRNS", transparent)
        yield png(random, 41, 23, 8, colour, 0, extra)
    pixels = _pixels(50, 70)
    yield _saved(pixels, "PNG", exif=_exif(8))
    text = chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(100_000)))
    profile = chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(100_000)))
    plain = _saved(pixels, "PNG")
    yield plain[:33] + profile + text + chunk(b"gAMA", bytes(4)) + plain[33:]
    stream = io.BytesIO()
    frames = [Image.fromarray(np.roll(pixels, shift, 1)) for shift in range(2)]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    yield stream.getvalue()


def png(
    random: Random, width: int, height: int, depth: int, colour: int, interlaced: int, extra: bytes = b""
) -> bytes:
    """A PNG of noise in rows of all filters."""
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = []
    for left, top, step_x, step_y in passes:
        across, down = -(-(width - left) // step_x), -(-(height - top) // step_y)
        size = (across * CHANNELS[colour] * depth + 7) // 8
        rows += [bytes([random.randrange(5)]) + random.randbytes(size) for _ in range(down) if across > 0]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = zlib.compress(b"".join(rows), 1)
    half = len(data) // 2
    idat = chunk(b"IDAT", data[:half]) + chunk(b"IDAT", data[half:])
    return PNG_MAGIC + chunk(b"IHDR", header) + extra + idat + chunk(b"IEND", b"")


def _webps() -> Iterator[bytes]:
    for pixels in (_pixels(50, 61), _pixels(130, 140)):
        alpha = np.dstack([pixels, pixels[..., 0]])
        for image, mode in ((pixels, "RGB"), (alpha, "RGBA")):
            for lossless in (False, True):
                yield _saved(image, "WEBP", mode, lossless=lossless, method=0)
                yield _saved(image, "WEBP", mode, lossless=lossless, method=4, quality=30, exif=_exif(5))
                stream = io.BytesIO()
                frames = [Image.fromarray(np.roll(image, shift, 1)) for shift in range(2)]
                frames[0].save(
                    stream, "WEBP", save_all=True, append_images=frames[1:], lossless=lossless, method=0
                )
                yield stream.getvalue()
    yield _saved(np.full((100, 100, 3), 7, np.uint8), "WEBP", lossless=True)


def _bmps() -> Iterator[bytes]:
    pixels = _pixels(43, 57)
    for mode in ("RGB", "L", "1", "P", "RGBA"):
        yield _saved(pixels, "BMP", mode)
    for bits, masks in (
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (32, (0xFF0000, 0xFF00, 0xFF)),
    ):
        row = -(-bits * 30 // 32) * 4
        body = struct.pack("<III", *masks) + Random(bits).randbytes(row * 20)
        head = struct.pack("<IiiHHIIiiII", 40, 30, -20, 1, bits, 3, row * 20, 0, 0, 0, 0)
        yield b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 66) + head + body
    palette = Random(1).randbytes(1024)
    for number in range(3):
        yield bmp(8, 1, 30, 20, _run_lengths(Random(number), 8), palette)
        yield bmp(4, 2, 30, 20, _run_lengths(Random(number), 4), palette[:64])
    core = struct.pack("<IHHHH", 12, 17, 19, 1, 24)
    yield b"BM" + struct.pack("<IHHI", 26 + 52 * 19, 0, 0, 26) + core + Random(3).randbytes(52 * 19)


def _run_lengths(random: Random, bits: int) -> bytes:
    """Runs, literal pixels, jumps, ends of lines: of no certain number of rows."""
    data = b""
    for _ in range(60):
        count = 4 * random.randrange(1, 5)
        data += random.choice(
            (
                bytes([random.randrange(1, 40), random.randrange(256)]),
                bytes([0, count]) + random.randbytes(count * bits // 8),
                b"\x00\x02" + bytes([random.randrange(9), random.randrange(3)]),
                b"\x00\x00",
            )
        )
    return data + b"\x00\x01"


def _gifs() -> Iterator[bytes]:
    for pixels in (_pixels(43, 57), _pixels(9, 5)):
        for colours in (2, 16, 256):
            image = Image.fromarray(pixels).quantize(colours)
            for interlace in (0, 1):
                for options in ({}, {"transparency": 1}):
                    stream = io.BytesIO()
                    image.save(stream, "GIF", interlace=interlace, **options)
                    yield stream.getvalue()
        stream = io.BytesIO()
        frames = [Image.fromarray(np.roll(pixels, shift, 1)).quantize(32) for shift in range(3)]
        frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], comment=b"c" * 300)
        data = stream.getvalue()
        yield data
        yield data[:6] + struct.pack("<HH", 99, 77) + data[10:]  # the canvas is larger than the frame


def _tiffs() -> Iterator[bytes]:
    pixels = _pixels(43, 57)
    for compression in (None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        for mode in ("RGB", "L", "CMYK", "P", "1", "LA", "RGBA"):
            if compression != "jpeg" or mode in ("RGB", "L"):
                yield _saved(pixels, "TIFF", mode, compression=compression)
        if compression != "jpeg":
            stream = io.BytesIO()
            Image.fromarray(pixels[..., 0].astype(np.uint16) << 8).save(
                stream, "TIFF", compression=compression
            )
            yield stream.getvalue()
    yield _saved(pixels, "TIFF", compression="tiff_lzw", tiffinfo={317: 2, 274: 6, 278: 5})
    yield _saved(pixels, "TIFF", save_all=True, append_images=[Image.fromarray(pixels)])
    noise = Random(5)
    for order in "<>":
        for tags in (
            {258: (16,) * 3, 277: 3, 262: 2, 284: 2},
            {258: (8,) * 4, 277: 4, 262: 2, 338: 1},
            {258: (16,), 277: 1, 262: 1, 322: 16, 323: 16},
            {258: (2,), 277: 1, 262: 0, 266: 2},
        ):
            yield tiff(order, 40, 30, tags, noise)


def tiff(order: str, width: int, height: int, tags: dict[int, Any], random: Random) -> bytes:
    """An uncompressed TIFF of noise, in strips of 7 rows or in tiles (tags 322, 323)."""
    bits, samples = tags[258][0], tags.get(277, 1)
    planes, each = (samples, 1) if tags.get(284) == 2 else (1, samples)
    across, down = tags.get(322, width), tags.get(323, 7)
    count = planes * -(-width // across) * -(-height // down)
    part = (across * bits * each + 7) // 8 * down
    offsets = [8 + index * part for index in range(count)]
    tiled = 322 in tags
    tags = {256: width, 257: height, 259: 1, **tags}
    tags |= {324: offsets, 325: [part] * count} if tiled else {273: offsets, 279: [part] * count, 278: down}
    at = 8 + part * count
    entries, behind = [], b""
    begin = at + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, list | tuple) else [value]
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, behind = struct.pack(f"{order}I", begin + len(behind)), behind + packed
        entries.append(struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    magic = b"II*\x00" if order == "<" else b"MM\x00*"
    return magic + struct.pack(f"{order}I", at) + random.randbytes(part * count) + directory + behind


def _avifs() -> Iterator[bytes]:
    pixels = _pixels(64, 88)
    for subsampling in ("4:0:0", "4:2:0", "4:2:2", "4:4:4"):
        yield _saved(pixels, "AVIF", subsampling=subsampling, quality=40, speed=10)
    plain = _saved(pixels, "AVIF", quality=60, speed=10)
    yield plain
    yield _saved(np.dstack([pixels, pixels[..., 0]]), "AVIF", "RGBA", quality=40, speed=10, exif=_exif(6)[6:])
    yield _saved(_pixels(9, 5), "AVIF", quality=100, subsampling="4:4:4", speed=10)
    stream = io.BytesIO()
    frames = [Image.fromarray(np.roll(pixels, shift, 1)) for shift in range(3)]
    frames[0].save(stream, "AVIF", save_all=True, append_images=frames[1:], quality=40, speed=10)
    yield stream.getvalue()
    yield heif_grid(plain, 2, 2, 170, 120)


def heics() -> Iterator[bytes]:
    """Files of 64 x 88 and of 45 x 61 pixels, written by pillow-heif 1.4: no HEVC encoder is installed."""
    files = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "heic").iterdir())}
    yield from files.values()
    yield heif_grid(files["420"], 2, 2, 170, 120)
    yield heif_grid(files["10bit"], 1, 3, 264, 64)
