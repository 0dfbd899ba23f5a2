"""TIFF: libtiff through Pillow inflates LZW, Deflate and PackBits; the samples are put together here.

libtiff is given a file of rows of bytes, whatever the samples in them: none of its code for colours, depths
and tiles is used. A JPEG within a TIFF is decoded as any other.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import struct
from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile, _imaging
from PIL.TiffImagePlugin import TiffImageFile

from models.codecs import jpeg
from models.codecs.rows import BAND_PIXELS, Pixels, band_rows, decoding, gather, light, over_white, unpacked
from models.errors import ImageInvalid
from models.headers import jpeg as jpeg_header
from models.headers import tiff
from models.headers.header import Frame, Header, TiffPage
from models.headers.tiff import row_bytes

# libtiff would write what is wrong with a client's file to stderr. Pillow has no switch for it; another build
# of Pillow, whose libtiff is not found so, is only louder.
with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

Samples = NDArray[np.uint8] | NDArray[np.uint16]

_GROUP = 4 << 20  # bytes that are inflated at a time, if a row of segments has no more
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def cost(header: Header, reduction: int, length: int) -> tuple[int, float]:
    """Bytes: the rows, Pillow's copy of them, the result and a new file; and seconds."""
    page = header.layout_as(TiffPage)
    pixels = header.width * header.height
    result = 3 * header.pixels_at(reduction)
    if page.compression == tiff.JPEG:
        most = page.tile[0] * page.tile[1]
        return 3 * pixels + 16 * most + result + 2 * length, 12e-9 * pixels + 13e-9 * length + 1e-4 * len(
            page.offsets
        )
    # what is inflated at a time: Pillow's image of it and two copies, and a file of it
    planes = page.samples if page.planar else 1
    segments = -(-header.width // page.tile[0]) * page.tile[1] * row_bytes(page) * planes
    group = min(header.raw, max(_GROUP, segments))
    memory = 4 * group + 16 * BAND_PIXELS * page.samples + result + length
    return memory, 4e-9 * header.raw + 16e-9 * pixels + 2e-6 * len(page.offsets)


def decode(data: bytes, header: Header, reduction: int) -> Pixels:
    """uint8 RGB, divided by `reduction` and rounded up; over white where there is transparency."""
    page = header.layout_as(TiffPage)
    height, width = header.height, header.width
    rows = band_rows(width, reduction)
    if page.compression == tiff.JPEG:
        whole = _jpegs(data, header, page)
        return gather((whole[top : top + rows] for top in range(0, height, rows)), height, width, reduction)
    return gather(_regrouped(_bands(data, header, page), rows), height, width, reduction)


def _regrouped(bands: Iterator[Pixels], rows: int) -> Iterator[Pixels]:
    """Bands of any number of rows -> bands of `rows`, the last one of the rest."""
    rest: Pixels | None = None
    for band in bands:
        rest = band if rest is None else np.concatenate((rest, band))
        while len(rest) >= rows:
            yield rest[:rows]
            rest = rest[rows:]
    if rest is not None and len(rest):
        yield rest


def _bands(data: bytes, header: Header, page: TiffPage) -> Iterator[Pixels]:
    """RGB uint8 [n, w, 3], from the top; a few rows of segments are inflated at a time."""
    width, height = header.width, header.height
    columns, down = -(-width // page.tile[0]), -(-height // page.tile[1])
    planes = page.samples if page.planar else 1
    several = max(1, _GROUP // (columns * page.tile[1] * row_bytes(page) * planes))
    rows = max(1, BAND_PIXELS // (page.tile[0] * columns))
    for first in range(0, down, several):
        last = min(first + several, down)
        inflated = [
            _rows(data, page, (plane * down + first) * columns, (plane * down + last) * columns, height)
            for plane in range(planes)
        ]
        for row in range(last - first):
            there = min(page.tile[1], height - (first + row) * page.tile[1])
            for top in range(0, there, rows):
                part = np.s_[row * columns : (row + 1) * columns, top : min(top + rows, there)]
                samples = [_samples(plane[part], page) for plane in inflated]
                together = samples[0]
                if page.planar:
                    together = cast(Samples, np.concatenate(samples, axis=-1))
                # [columns, n, tile width, samples] -> [n, columns * tile width, samples]
                lying = together.transpose(1, 0, 2, 3).reshape(together.shape[1], -1, page.samples)
                yield _colours(lying[:, :width], page)


def _rows(data: bytes, page: TiffPage, first: int, last: int, height: int) -> Pixels:
    """uint8 [segments, rows, bytes]: the segments from `first` on and before `last`, inflated."""
    count, across, down = last - first, row_bytes(page), page.tile[1]
    places = zip(page.offsets[first:last], page.lengths[first:last], strict=True)
    parts = [data[at : at + length] for at, length in places]
    if page.fill_order == 2:
        parts = [part.translate(_REVERSED) for part in parts]
    if page.compression == tiff.NONE:
        size = across * down
        whole = b"".join(part[:size].ljust(size, b"\x00") for part in parts)
        return np.frombuffer(whole, np.uint8).reshape(count, down, across)
    # the last strip of a plane may have fewer rows; tiles have all
    rest = height % down if not page.tiled and last % -(-height // down) == 0 else 0
    rows = count * down - (down - rest if rest else 0)
    inflated = _inflated(parts, page.compression, across, rows, down)
    return np.resize(inflated, (count, down, across)) if rest else inflated.reshape(count, down, across)


class _Rows(TiffImageFile):
    """Pillow's plugin without its limit of pixels, which is global to the process."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


def _inflated(parts: list[bytes], compression: int, across: int, height: int, down: int) -> Pixels:
    """uint8 [height, across] of segments of `down` rows each."""
    file = io.BytesIO(_file(parts, compression, across, height, down))
    with decoding("TIFF"), _Rows(file) as image:
        image.load()
        return np.asarray(image)


def _file(parts: list[bytes], compression: int, across: int, height: int, down: int) -> bytes:
    """A TIFF of grey bytes, whose strips are these segments."""
    count, at = len(parts), 8
    offsets = []
    for part in parts:
        offsets.append(at)
        at += len(part)
    arrays = struct.pack(f"<{count}I", *offsets) + struct.pack(f"<{count}I", *map(len, parts))
    first = (at, at + 4 * count) if count > 1 else (offsets[0], len(parts[0]))
    tags = [
        (256, 1, across),
        (257, 1, height),
        (258, 1, 8),
        (259, 1, compression),
        (262, 1, 1),
        (273, count, first[0]),
        (277, 1, 1),
        (278, 1, down),
        (279, count, first[1]),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, *rest) for tag, *rest in tags
    )
    end = at + len(arrays)
    return b"".join(
        [b"II*\x00", struct.pack("<I", end + end % 2), *parts, arrays, bytes(end % 2), directory, bytes(4)]
    )


def _samples(rows: Pixels, page: TiffPage) -> Samples:
    """uint8 [across, n, bytes] -> [across, n, tile width, samples of a plane]; 16 bits by their high byte,
    palette entries and fewer bits as they are."""
    each = 1 if page.planar else page.samples
    if page.bits < 8:
        return unpacked(rows, page.bits)[..., : page.tile[0]][..., None]
    if page.bits == 16:
        wide = np.ascontiguousarray(rows).view(f"{page.order}u2").astype(np.uint16)
        wide = wide.reshape(*rows.shape[:2], page.tile[0], each)
        if page.predictor == 2:
            wide = np.add.accumulate(wide, axis=2, dtype=np.uint16)
        return wide if page.photometric == tiff.PALETTE else (wide >> 8).astype(np.uint8)
    samples = rows.reshape(*rows.shape[:2], page.tile[0], each)
    return np.add.accumulate(samples, axis=2, dtype=np.uint8) if page.predictor == 2 else samples


def _colours(samples: Samples, page: TiffPage) -> Pixels:
    """[n, w, samples] -> RGB uint8 [n, w, 3]."""
    kind = page.photometric
    if kind == tiff.PALETTE:
        table = (np.array(page.colours, np.uint16) >> 8).astype(np.uint8).reshape(3, -1).T
        return np.take(table, samples[..., 0], axis=0)
    levels = samples.astype(np.uint8, copy=False)  # none but palettes have more here
    if page.bits < 8:
        levels = levels * np.uint8(255 // ((1 << page.bits) - 1))
    count = {tiff.RGB: 3, tiff.SEPARATED: 4}.get(kind, 1)
    colours: Pixels = np.ascontiguousarray(levels[..., :count])
    if kind == tiff.WHITE_IS_ZERO:
        colours = 255 - colours
    if kind == tiff.SEPARATED:
        return light(255 - colours)
    if count == 1:
        colours = np.repeat(colours, 3, axis=2)
    alpha = page.extra.index(1) if 1 in page.extra else page.extra.index(2) if 2 in page.extra else None
    if alpha is None or count + alpha >= levels.shape[2]:
        return colours
    opacity = levels[..., count + alpha : count + alpha + 1]
    if page.extra[alpha] == 1:  # the colours are multiplied by it already
        shown: Pixels = colours + np.minimum(255 - opacity, 255 - colours)
        return shown
    return over_white(np.concatenate((colours, opacity), axis=-1))


def _jpegs(data: bytes, header: Header, page: TiffPage) -> Pixels:
    """RGB uint8 [h, w, 3] of segments that are JPEGs with the page's tables (TIFF technical note 2)."""
    tables = data[slice(*page.tables)].removeprefix(b"\xff\xd8").removesuffix(b"\xff\xd9")
    # what tells that the colours are RGB, since libjpeg takes them for YCbCr otherwise
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" if page.photometric == tiff.RGB else b""
    whole = np.empty((header.height, header.width, 3), np.uint8)
    across = -(-header.width // page.tile[0])
    for index, (at, length) in enumerate(zip(page.offsets, page.lengths, strict=True)):
        file = b"\xff\xd8" + adobe + tables + data[at : at + length].removeprefix(b"\xff\xd8")
        with decoding("TIFF"):
            inner = jpeg_header.read(file)
        top, left = index // across * page.tile[1], index % across * page.tile[0]
        rows, columns = min(page.tile[1], header.height - top), min(page.tile[0], header.width - left)
        if not (
            inner.complete and rows <= inner.height <= page.tile[1] and columns <= inner.width <= page.tile[0]
        ):
            raise ImageInvalid("the TIFF is truncated or corrupt")
        if not isinstance(inner.layout, Frame) or inner.layout.coefficients:
            raise ImageInvalid("the TIFF holds a progressive JPEG")
        whole[top : top + rows, left : left + columns] = jpeg.decode(file, inner, 1)[:rows, :columns]
    return whole
