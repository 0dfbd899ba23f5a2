"""Mutations of image files, by format."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

from loadtests.fuzz.mutate import INTERESTING, mutated
from loadtests.imagefiles import Scan, chunk, empty_bands

Mutation = Callable[[Random, bytes, bytes], bytes]
"""A random generator, a file, and another one to splice with -> a file."""

MOST = 1 << 17  # bytes of a mutated file

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
