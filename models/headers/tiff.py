"""TIFF: the first page's size and layout, and the number of pages (TIFF 6.0, and BigTIFF)."""

from __future__ import annotations

import struct

import numpy as np

from models.errors import ImageInvalid, MediaTypeUnsupported
from models.headers.accepted import not_accepted
from models.headers.header import MAX_SEGMENTS, Format, Header, TiffPage

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
NONE, LZW, JPEG, ADOBE_DEFLATE, DEFLATE, PACK_BITS = 1, 5, 7, 8, 32946, 32773
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_LENGTHS, _PLANAR, _PREDICTOR = (
    273,
    274,
    277,
    278,
    279,
    284,
    317,
)
_COLOURS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_LENGTHS, _SUB_PAGES = 320, 322, 323, 324, 325, 330
_EXTRA, _FORMAT, _TABLES, _DNG_VERSION = 338, 339, 347, 50706
_COMPRESSIONS = {
    NONE: "", LZW: "", JPEG: "", ADOBE_DEFLATE: "", DEFLATE: "", PACK_BITS: "",
    2: "CCITT", 3: "CCITT (fax)", 4: "CCITT (fax)", 6: "old-style JPEG", 34712: "JPEG 2000", 34925: "LZMA",
    50000: "Zstandard", 50001: "WebP", 52546: "JPEG XL", 34661: "JBIG",
}  # fmt: skip
_PHOTOMETRICS = {
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "raw",
    34892: "raw",
    32844: "LogL",
    32845: "LogLuv",
}
_COUNTS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3}
_MAX_ENTRIES = 1_000  # of a directory
_MAX_PAGES = 10_000  # that are counted
_MAX_PARTS = 100_000  # strips or tiles
_MAX_JPEGS = 2_000  # the same, where each is a JPEG of its own
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 7: "B", 13: "I", 16: "Q", 18: "Q"}


class _Directory:
    """A page's tags.

    Args:
        data: the file.
        at: where the directory begins.
        order: of bytes: ``<`` or ``>``.
        big: BigTIFF.
    """

    def __init__(self, data: bytes, at: int, order: str, big: bool) -> None:
        self._data, self._order = data, order
        count_type, size, self._inside = ("Q", 20, 8) if big else ("H", 12, 4)
        (count,) = struct.unpack_from(order + count_type, data, at)
        if count > _MAX_ENTRIES:
            raise ImageInvalid(f"the TIFF has a page of more than {_MAX_ENTRIES} tags")
        begin = at + struct.calcsize("=" + count_type)
        self._entries: dict[int, tuple[int, int, int]] = {}
        for place in range(begin, begin + count * size, size):
            tag, kind, many = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
            self._entries.setdefault(tag, (kind, many, place + size - self._inside))
        pointer = "Q" if big else "I"
        self._pointer = order + pointer
        self.next: int = struct.unpack_from(self._pointer, data, begin + count * size)[0]

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def place(self, tag: int) -> tuple[int, int]:
        """Begin and end of a tag's bytes; (0, 0) where it is missing."""
        if tag not in self._entries:
            return 0, 0
        kind, many, at = self._entries[tag]
        length = many * struct.calcsize("=" + _TYPES.get(kind, "B"))
        if length > self._inside:
            (at,) = struct.unpack_from(self._pointer, self._data, at)
        return at, at + length

    def all(self, tag: int, most: int = 16) -> tuple[int, ...]:
        """A tag's numbers; none where it is missing.

        Raises:
            ImageInvalid: they are more, no numbers, or beyond the file's end.
        """
        if tag not in self._entries:
            return ()
        kind, many, _ = self._entries[tag]
        begin, end = self.place(tag)
        if kind not in _TYPES or many > most or end > len(self._data):
            raise ImageInvalid(f"the TIFF's tag {tag} makes no sense")
        numbers = np.frombuffer(self._data, f"{self._order}{_TYPES[kind]}", many, begin)
        if many and numbers.min() < 0:
            raise ImageInvalid(f"the TIFF's tag {tag} makes no sense")
        return tuple(numbers.tolist())

    def one(self, tag: int, default: int) -> int:
        """A tag's first number."""
        return next(iter(self.all(tag, 1_000)), default)


def read(data: bytes) -> Header:
    """The first page; of the others only the number."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\x00", b"\x00+")
    if big and struct.unpack_from(order + "HH", data, 4) != (8, 0):
        raise ImageInvalid("the TIFF's header makes no sense")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    page = _Directory(data, at, order, big)
    if _DNG_VERSION in page or (page.one(_SUBFILE, 0) & 1 and _SUB_PAGES in page):
        raise not_accepted("a camera's raw file")
    width, height = page.one(_WIDTH, 0), page.one(_HEIGHT, 0)
    orientation = page.one(_ORIENTATION, 1)
    layout = _layout(data, page, order, width, height)
    parts = len(layout.offsets)
    raw = parts * layout.tile[1] * row_bytes(layout)
    if layout.compression not in (NONE, JPEG):
        raw += parts  # what decompresses them has more to do for each
    ends = [begin + length for begin, length in zip(layout.offsets, layout.lengths, strict=True)]
    if sum(layout.lengths) > len(data) and max(ends, default=0) <= len(data):
        raise ImageInvalid("the TIFF's parts overlap")
    return Header(
        Format.TIFF,
        width,
        height,
        orientation if 1 <= orientation <= 8 else 1,
        complete=max(ends, default=0) <= len(data),
        frames=1 + (_pages(data, page.next, order, big) if page.next else 0),
        layout=layout,
        raw=raw,
    )


def row_bytes(page: TiffPage) -> int:
    """Of a row of a segment, decompressed."""
    return (page.tile[0] * page.bits * (1 if page.planar else page.samples) + 7) // 8


def _pages(data: bytes, at: int, order: str, big: bool) -> int:
    """Pages from the second on, which begins at `at`; previews left out."""
    head, size, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    pages = 0
    for _ in range(_MAX_PAGES):
        try:
            (count,) = struct.unpack_from(order + head, data, at)
            begin = at + struct.calcsize("=" + head)
            (tag,) = struct.unpack_from(order + "H", data, begin)  # in rising order: this one is the first
            (kind,) = struct.unpack_from(order + "I", data, begin + size - (8 if big else 4))
            pages += not (tag == _SUBFILE and kind & 1)
            (at,) = struct.unpack_from(order + pointer, data, begin + count * size)
        except struct.error:
            break
        if at == 0:
            break
    return pages


def _layout(data: bytes, page: _Directory, order: str, width: int, height: int) -> TiffPage:
    compression, photometric = page.one(_COMPRESSION, NONE), page.one(_PHOTOMETRIC, BLACK_IS_ZERO)
    if _COMPRESSIONS.get(compression, str(compression)):
        name = _COMPRESSIONS.get(compression, f"the number {compression}")
        raise MediaTypeUnsupported(f"a TIFF with {name} compression is not supported")
    if photometric not in _COUNTS or (photometric == YCBCR and compression != JPEG):
        name = _PHOTOMETRICS.get(
            photometric, "YCbCr" if photometric == YCBCR else f"the number {photometric}"
        )
        raise MediaTypeUnsupported(f"a TIFF with {name} colours is not supported")
    samples, bits = page.one(_SAMPLES, 1), page.all(_BITS, MAX_SEGMENTS) or (1,)
    if set(page.all(_FORMAT, MAX_SEGMENTS)) - {1, 4}:
        raise MediaTypeUnsupported("a TIFF of signed or floating-point numbers is not supported")
    if len(set(bits)) != 1 or bits[0] not in (1, 2, 4, 8, 16):
        raise MediaTypeUnsupported(f"a TIFF of {bits[0]} bits a sample is not supported")
    if not _COUNTS[photometric] <= samples <= 16 or (bits[0] < 8 and samples > 1):
        raise MediaTypeUnsupported(f"a TIFF of {samples} samples of {bits[0]} bits is not supported")
    predictor = page.one(_PREDICTOR, 1) if compression in (LZW, ADOBE_DEFLATE, DEFLATE) else 1
    if predictor not in (1, 2) or (predictor == 2 and bits[0] < 8):
        raise MediaTypeUnsupported("a TIFF with this predictor is not supported")
    planar = page.one(_PLANAR, 1) == 2 and samples > 1
    if compression == JPEG and (
        bits[0] != 8 or planar or samples != {BLACK_IS_ZERO: 1, RGB: 3, YCBCR: 3}.get(photometric)
    ):
        raise MediaTypeUnsupported("a TIFF with a JPEG of this kind is not supported")
    tiled = _TILES in page
    tile = (
        (page.one(_TILE_WIDTH, 0), page.one(_TILE_HEIGHT, 0))
        if tiled
        else (width, page.one(_ROWS, height) or height)
    )
    tile = tile[0], tile[1] if tiled else min(tile[1], height)
    if width and height and min(tile) < 1:
        raise ImageInvalid("the TIFF's tiles have no pixels")
    across, down = (-(-side // max(part, 1)) for side, part in zip((width, height), tile, strict=True))
    parts = across * down * (samples if planar else 1)
    most = _MAX_JPEGS if compression == JPEG else _MAX_PARTS
    if parts > most:
        raise ImageInvalid(f"the TIFF has more than {most} strips or tiles")
    offsets = page.all(_TILES if tiled else _STRIPS, _MAX_PARTS)
    lengths = page.all(_TILE_LENGTHS if tiled else _STRIP_LENGTHS, _MAX_PARTS)
    if not lengths and parts == 1 and offsets:  # some writers leave them out
        lengths = (len(data) - offsets[0],)
    if len(offsets) < parts or len(lengths) < parts or min(lengths[:parts], default=0) < 0:
        raise ImageInvalid("the TIFF does not tell where its pixels are")
    colours = page.all(_COLOURS, 3 << 16) if photometric == PALETTE else ()
    if photometric == PALETTE and (len(colours) != 3 << bits[0] or max(colours) > 65_535):
        raise ImageInvalid("the TIFF's palette makes no sense")
    return TiffPage(
        order,
        bits[0],
        samples,
        compression,
        photometric,
        predictor,
        page.one(_FILL_ORDER, 1),
        planar,
        page.all(_EXTRA, MAX_SEGMENTS),
        colours,
        tile,
        tiled,
        offsets[:parts],
        lengths[:parts],
        page.place(_TABLES) if compression == JPEG else (0, 0),
    )
