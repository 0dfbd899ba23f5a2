"""Image files assembled byte by byte: of kinds that no available encoder writes, valid and not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its CRC."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(code: int, body: bytes) -> bytes:
    """A JPEG marker segment."""
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


def huffman_table(kind: int, number: int, codes: Sequence[Sequence[int]]) -> bytes:
    """A DHT segment: `kind` 0 for DC and 1 for AC; the symbols of each code length from 1 bit on."""
    lengths = bytes(len(codes[length]) if length < len(codes) else 0 for length in range(16))
    return segment(0xC4, bytes([kind << 4 | number]) + lengths + b"".join(map(bytes, codes)))


# One-bit codes for what is cheapest: a DC difference of 0; the end of 2^14 (and more, by 14 bits) AC bands,
# of one band, and a coefficient of +-1.
TABLES = segment(0xDB, b"\x00" + bytes([1] * 64)) + b"".join(
    huffman_table(0, number, [[0], [1], [2]]) + huffman_table(1, number, [[0xE0], [0x00], [0x01], [0xF0]])
    for number in (0, 1)
)


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan of a JPEG: component numbers, spectral selection, successive approximation, coded data."""

    components: tuple[int, ...]
    first: int = 0
    last: int = 63
    high: int = 0
    low: int = 0
    data: bytes = b""

    def __bytes__(self) -> bytes:
        tables = b"".join(bytes([number, 0]) for number in self.components)
        selection = bytes([self.first, self.last, self.high << 4 | self.low])
        return segment(0xDA, bytes([len(self.components)]) + tables + selection) + self.data


def frame(
    code: int, height: int, width: int, sampling: Sequence[tuple[int, int]], precision: int = 8
) -> bytes:
    """A JPEG frame header; components are numbered from 1."""
    body = struct.pack(">BHHB", precision, height, width, len(sampling))
    return segment(code, body + b"".join(bytes([1 + k, h << 4 | v, 0]) for k, (h, v) in enumerate(sampling)))


def jpeg(
    code: int,
    height: int,
    width: int,
    sampling: Sequence[tuple[int, int]],
    scans: Sequence[Scan],
    *,
    precision: int = 8,
    extra: bytes = b"",
) -> bytes:
    """A JPEG of frame type `code` (0xc0 baseline, 0xc2 progressive, 0xc3 lossless)."""
    parts = [b"\xff\xd8", TABLES, extra, frame(code, height, width, sampling, precision), *map(bytes, scans)]
    return b"".join(parts) + b"\xff\xd9"


def entropy(bits: str) -> bytes:
    """Bits as entropy-coded data: filled up with ones, 0x00 after each 0xff."""
    bits += "1" * (-len(bits) % 8)
    return int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:].replace(b"\xff", b"\xff\x00")


def empty_bands(blocks: int) -> bytes:
    """A progressive AC scan in which so many blocks have nothing: 15 bits for each 32,767 of them."""
    return entropy(("0" + "1" * 14) * -(-blocks // 32_767))


COLOUR = ((1, 1), (1, 1), (1, 1))


def box(kind: bytes, content: bytes) -> bytes:
    """A box of an ISO media file."""
    return struct.pack(">I", 8 + len(content)) + kind + content


def heif_grid(tile: bytes, rows: int, columns: int, width: int, height: int) -> bytes:
    """An AVIF or HEIC of `width` by `height` pixels, whose tiles are all the only image of the file `tile`.

    They share its data, so the file stays small.
    """

    def content(kind: bytes) -> bytes:
        at = tile.index(kind)
        return tile[at + 4 : at - 4 + int.from_bytes(tile[at - 4 : at], "big")]

    coding = b"av01" if b"av01" in tile else b"hvc1"
    properties, described, coded = content(b"ipco"), content(b"ipma")[10:], content(b"mdat")
    count, total = 0, rows * columns
    at = 0
    while at < len(properties):
        count, at = count + 1, at + int.from_bytes(properties[at : at + 4], "big")
    properties += box(b"ispe", bytes(4) + struct.pack(">II", width, height))
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    numbers = range(2, 2 + total)
    kinds = [(1, b"grid"), *((number, coding) for number in numbers)]
    entries = [
        box(b"infe", b"\x02\x00\x00\x00" + struct.pack(">HH", *pair[:1], 0) + pair[1] + b"\x00")
        for pair in kinds
    ]
    tiles = struct.pack(">HH", 1, total) + b"".join(struct.pack(">H", number) for number in numbers)
    described_by = struct.pack(">HBB", 1, 1, count + 1)
    described_by += b"".join(struct.pack(">H", number) + described for number in numbers)

    def meta(place: int) -> bytes:
        places = struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(grid))
        places += b"".join(struct.pack(">HHHHII", number, 0, 0, 1, place, len(coded)) for number in numbers)
        return box(
            b"meta",
            bytes(4)
            + box(b"hdlr", bytes(8) + b"pict" + bytes(13))
            + box(b"pitm", bytes(4) + struct.pack(">H", 1))
            + box(b"iloc", b"\x01\x00\x00\x00\x44\x00" + struct.pack(">H", 1 + total) + places)
            + box(b"iinf", bytes(4) + struct.pack(">H", 1 + total) + b"".join(entries))
            + box(b"iref", bytes(4) + box(b"dimg", tiles))
            + box(
                b"iprp",
                box(b"ipco", properties)
                + box(b"ipma", bytes(4) + struct.pack(">I", 1 + total) + described_by),
            )
            + box(b"idat", grid),
        )

    head = box(b"ftyp", tile[8:12] + bytes(4) + tile[8:12] + b"mif1")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", coded)


def bmp(bits: int, compression: int, width: int, height: int, body: bytes, palette: bytes = b"") -> bytes:
    """A BMP with a header of 40 bytes; `palette` may be bit fields."""
    start = 54 + len(palette)
    colours = len(palette) // 4 if bits <= 8 else 0
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body
