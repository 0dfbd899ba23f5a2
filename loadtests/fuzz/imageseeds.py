"""Valid image files of every kind, and mutations by format."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtests.fuzz.mutate import INTERESTING, mutated
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
Mutation = Callable[[Random, bytes, bytes], bytes]
"""A random generator, a file, and another one to splice with -> a file."""

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
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top, and steps to the right and down of an interlaced PNG's passes."""
MOST = 1 << 17  # bytes of a mutated file


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
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = []
    for left, top, step_x, step_y in passes:
        across, down = -(-(width - left) // step_x), -(-(height - top) // step_y)
        size = (across * channels * depth + 7) // 8
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


TOKENS = [
    b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc0", b"\xff\xc2", b"\xff\xc3", b"\xff\xc9", b"\xff\xc4",
    b"\xff\xdb", b"\xff\xdd\x00\x04\x00\x01", b"\xff\xdc\x00\x04\x00\x10", b"\xff\xd0", b"\xff\x00",
    b"\xff\xff", b"\xff\x01",
    b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02", b"\xff\xe1\x00\x08Exif\x00\x00", b"JFIF\x00\x02",
    b"IHDR", b"IDAT", b"IEND", b"tRNS", b"PLTE", b"acTL", b"eXIf", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff",
    b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"\x9d\x01\x2a", b"BM",
    b"\x21\xf9\x04\x01\x00\x00\x05\x00", b"\x2c\x00\x00\x00\x00", b"II*\x00", b"ftyp", b"meta", b"hvcC",
    b"av1C", b"ispe", b"clap", b"irot", b"imir", b"auxl", b"dimg", b"\x12\x00", b"\x00\x00\x01\x26",
]  # fmt: skip


def _bytes(random: Random, data: bytes, other: bytes) -> bytes:
    return mutated(random, data, TOKENS, [other], MOST)


def _head(random: Random, data: bytes, other: bytes) -> bytes:
    """A byte or a number among the first ones."""
    at = (
        random.randrange(min(len(data), 100) or 1)
        if random.random() < 0.3
        else min(random.randrange(12, 60), len(data))
    )
    if random.random() < 0.5:
        byte = random.choice((0, 1, 2, 3, 4, 8, 16, 17, 34, 255, random.randrange(256)))
        return data[:at] + bytes([byte]) + data[at + 1 :]
    size = random.choice((2, 4))
    value: int = random.choice((random.randrange(700), random.choice(INTERESTING))) & (256**size - 1)
    return (
        data[:at]
        + bytes(value.to_bytes(size, "big" if random.random() < 0.5 else "little"))
        + data[at + size :]
    )


def _pieces(split: Callable[[bytes], list[bytes]]) -> Mutation:
    """Segments or chunks left out, doubled, exchanged, or taken from the other file."""

    def mutation(random: Random, data: bytes, other: bytes) -> bytes:
        pieces, others = split(data), split(other)
        at, to = random.randrange(len(pieces)), random.randrange(len(pieces))
        match random.randrange(5):
            case 0:
                del pieces[at]
            case 1:
                pieces[at:at] = [pieces[at]] * random.choice((1, 1, 2, 30, 120))
            case 2:
                pieces[at], pieces[to] = pieces[to], pieces[at]
            case 3:
                pieces.insert(at, random.choice(others))
            case _:
                pieces[at:] = others[random.randrange(len(others)) :]
        return b"".join(pieces)

    return mutation


def segments(data: bytes) -> list[bytes]:
    """A JPEG in its segments; entropy-coded data goes with the scan before it."""
    pieces: list[bytes] = []
    begin, at = 0, 2
    while at + 4 <= len(data) and data[at] == 0xFF and len(pieces) < 300:
        pieces.append(data[begin:at])
        begin = at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[begin + 1] == 0xDA:
            while (found := data.find(b"\xff", at)) >= 0 and data[found + 1 : found + 2] in (
                b"\x00",
                *_RESTARTS,
            ):
                at = found + 2
            at = len(data) if found < 0 else found
    return [*pieces, data[begin:at], data[at:]]


_RESTARTS = [bytes([code]) for code in range(0xD0, 0xD8)]


def _frame(random: Random, data: bytes, other: bytes) -> bytes:
    """Another frame type, precision, size, number or sampling of components."""
    at = next(
        (at for code in b"\xc0\xc1\xc2\xc3\xc9\xca" if (at := data.find(bytes([0xFF, code]))) >= 0), None
    )
    if at is None or at + 12 > len(data):
        return _head(random, data, other)
    changed = bytearray(data)
    match random.randrange(5):
        case 0:
            changed[at + 1] = random.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF))
        case 1:
            changed[at + 4] = random.choice((2, 8, 8, 12, 16))
        case 2 | 3:
            side = random.choice((0, 1, 7, 8, 9, random.randrange(600), random.randrange(60_000)))
            changed[at + 5 : at + 7] = changed[at + 7 : at + 9]
            changed[at + 7 : at + 9] = side.to_bytes(2, "big")
        case _:
            component = at + 11 + 3 * random.randrange(3)
            if component < len(changed):
                changed[component] = random.choice(
                    (0x11, 0x12, 0x21, 0x22, 0x41, 0x14, 0x31, 0x44, 0x10, 0x51)
                )
    return bytes(changed)


def _scan(random: Random, data: bytes, other: bytes) -> bytes:
    """Another scan, or more of them, before the end."""
    numbers = tuple(random.sample((1, 2, 3, 4, 0, 67), random.choice((1, 1, 1, 2, 3, 4))))
    first, last = random.choice(((0, 63), (0, 0), (1, 63), (1, 5), (6, 63), (63, 1), (1, 0)))
    high, low = random.choice(((0, 0), (0, 1), (1, 0), (2, 1), (0, 13), (14, 13), (15, 15)))
    coded = random.choice((b"", b"", random.randbytes(30).replace(b"\xff", b"\xff\x00"), empty_bands(2_000)))
    scan = bytes(Scan(numbers, first, last, high, low, coded)) * random.choice((1, 1, 1, 3, 20, 99, 101))
    end = max(data.rfind(b"\xff\xd9"), 2)
    return data[:end] + scan + data[end:]


def chunks(data: bytes) -> list[bytes]:
    """A PNG in its signature and chunks."""
    pieces, at = [data[:8]], 8
    while at < len(data) and len(pieces) < 300:
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        pieces.append(data[at:end])
        at = end
    return pieces


def _mended(random: Random, data: bytes, other: bytes) -> bytes:
    """Something within a chunk is other, and its checksum right."""
    pieces = chunks(data)
    at = random.randrange(len(pieces))
    kind, body = pieces[at][4:8], pieces[at][8:-4]
    if kind == b"IHDR" and len(body) == 13 and random.random() < 0.8:
        number = random.choice((0, 4, 8, 8, 9, 9, 10, 11, 12, 12))
        if number < 8:
            side = random.choice((0, 1, 2, random.randrange(500), random.randrange(3_000), 2**31, 70_000))
            body = body[:number] + side.to_bytes(4, "big") + body[number + 4 :]
        else:
            body = body[:number] + bytes([random.choice((0, 1, 2, 3, 4, 6, 8, 16))]) + body[number + 1 :]
    else:
        body = mutated(random, body, TOKENS, [other], MOST)
    pieces[at] = chunk(kind, body)
    return b"".join(pieces)


def _rows(random: Random, data: bytes, other: bytes) -> bytes:
    """Something within the inflated rows is other."""
    pieces = chunks(data)
    coded = b"".join(piece[8:-4] for piece in pieces if piece[4:8] == b"IDAT")
    try:
        rows = zlib.decompressobj().decompress(coded, MOST)
    except zlib.error:
        return _mended(random, data, other)
    rows = mutated(random, rows, TOKENS, [other], MOST)
    kept = [piece for piece in pieces if piece[4:8] not in (b"IDAT", b"IEND")]
    coded = zlib.compress(rows, random.choice((0, 1)))
    return b"".join(kept) + chunk(b"IDAT", coded) + chunk(b"IEND", b"")


def boxes(data: bytes) -> list[bytes]:
    """A WebP in its head and chunks."""
    pieces, at = [data[:12]], 12
    while at < len(data) and len(pieces) < 300:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        pieces.append(data[at:end])
        at = end
    return pieces


def _bits(random: Random, data: bytes, other: bytes) -> bytes:
    """A bit of a WebP's bitstream or of its chunks' heads."""
    pieces = boxes(data)
    at = random.randrange(len(pieces))
    if piece := bytearray(pieces[at]):
        for _ in range(random.choice((1, 1, 2, 10))):
            piece[random.randrange(min(len(piece), random.choice((20, 60, len(piece)))))] ^= (
                1 << random.randrange(8)
            )
    pieces[at] = bytes(piece)
    return b"".join(pieces)


def _anywhere(random: Random, data: bytes, other: bytes) -> bytes:
    """A few bytes or bits, most often of the coded data."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 10))):
        at = random.randrange(len(changed)) if changed else 0
        if at < len(changed):
            changed[at] = random.choice((changed[at] ^ 1 << random.randrange(8), random.randrange(256)))
    return bytes(changed)


def _entry(random: Random, data: bytes, other: bytes) -> bytes:
    """A number of an entry of a TIFF's first directory."""
    order = "<" if data[:2] == b"II" else ">"
    at = int.from_bytes(data[4:8], "little" if order == "<" else "big") if len(data) > 8 else 0
    if at + 14 > len(data):
        return _head(random, data, other)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    place = at + 2 + 12 * random.randrange(max(count, 1)) + random.choice((0, 2, 4, 8, 8, 8, 8))
    value = random.choice(
        (0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 32773, random.randrange(70), random.choice(INTERESTING))
    )
    size = 2 if place % 12 in (0, 2) and random.random() < 0.5 else 4
    packed = bytes((value & 256**size - 1).to_bytes(size, "little" if order == "<" else "big"))
    return data[:place] + packed + data[place + size :]


def _media(random: Random, data: bytes, other: bytes) -> bytes:
    """A number or a box of the description of an AVIF or HEIC, or its place."""
    kinds = (
        b"ispe",
        b"hvcC",
        b"av1C",
        b"ipma",
        b"iloc",
        b"iref",
        b"infe",
        b"pitm",
        b"clap",
        b"colr",
        b"irot",
        b"mdat",
    )
    found = [at for kind in kinds if (at := data.find(kind)) >= 0]
    if not found:
        return _head(random, data, other)
    at = random.choice(found) + random.choice((-4, 4, 8, random.randrange(4, 60)))
    if random.random() < 0.6:
        value = random.choice((0, 1, 2, 63, 64, 255, random.randrange(256)))
        return data[:at] + bytes([value]) + data[at + 1 :]
    number = random.choice((random.randrange(700), random.choice(INTERESTING))) & 0xFFFFFFFF
    return data[:at] + number.to_bytes(4, "big") + data[at + 4 :]


MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "jpeg": (_bytes, _head, _frame, _frame, _frame, _scan, _scan, _pieces(segments), _pieces(segments)),
    "png": (_bytes, _head, _mended, _mended, _mended, _mended, _rows, _rows, _pieces(chunks)),
    "webp": (_bytes, _head, _head, _bits, _bits, _bits, _pieces(boxes)),
    "bmp": (_bytes, _head, _head, _head, _anywhere),
    "gif": (_bytes, _head, _head, _anywhere, _anywhere),
    "tiff": (_bytes, _anywhere, _entry, _entry, _entry, _entry),
    "avif": (_bytes, _anywhere, _anywhere, _media, _media),
    "heic": (_bytes, _anywhere, _anywhere, _anywhere, _media, _media),
}
