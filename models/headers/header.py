"""What the headers of an image file tell, and bounds that the parsers share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar


class Format(StrEnum):
    """The accepted formats, recognised by their magic bytes and never by a declared media type."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    GIF = "GIF"
    BMP = "BMP"
    TIFF = "TIFF"
    AVIF = "AVIF"
    HEIC = "HEIC"


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame header of a JPEG that can be decoded: baseline, extended or progressive Huffman, 8 bits.

    Attributes:
        sampling: horizontal and vertical sampling factors of each component, 1 to 4.
        coefficients: that a decoder keeps for the whole image, 2 bytes each; 0 where it needs one pass only.
        scan_ns: upper estimate of the CPU time of all scans without their data, nanoseconds; 0 for one pass.
    """

    sampling: tuple[tuple[int, int], ...]
    coefficients: int
    scan_ns: int


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
class GifImage:
    """A GIF's first image.

    Attributes:
        width, height: of it, pixels.
        left, top: where it lies on the canvas.
        interlaced: its rows come in four passes.
        palette: begin and end of its colours within the file, three bytes each.
        transparent: index of the transparent colour; None where there is none.
        data: begin and end of its compressed data, the code's size included.
    """

    width: int
    height: int
    left: int
    top: int
    interlaced: bool
    palette: tuple[int, int]
    transparent: int | None
    data: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A BMP's pixels.

    Attributes:
        bits: of a pixel: 1, 2, 4, 8, 16, 24 or 32.
        run_lengths: RLE8 or RLE4; otherwise plain rows.
        masks: of red, green, blue and alpha within a pixel of 16 or 32 bits; 0 for an alpha that is none.
        palette: begin and end of its colours within the file.
        entry: bytes of a colour: 3 or 4.
        data: where the pixels begin.
        down: the first row is the upper one.
    """

    bits: int
    run_lengths: bool
    masks: tuple[int, int, int, int]
    palette: tuple[int, int]
    entry: int
    data: int
    down: bool


@dataclass(frozen=True, slots=True)
class TiffPage:
    """The first page of a TIFF.

    Attributes:
        order: of the bytes of 16-bit samples: ``<`` or ``>``.
        bits: of a sample: 1, 2, 4, 8 or 16.
        samples: of a pixel.
        compression, photometric, predictor, fill_order: tags as TIFF 6.0 numbers them.
        planar: a plane for each sample; otherwise the samples of a pixel lie together.
        extra: what the samples beyond the colours are (tag ExtraSamples); empty where there are none.
        colours: the colour map, 3 times 2**bits values of 16 bits; empty where there is none.
        tile: width and height of a segment: of a tile, or of a strip, which is as wide as the image.
        tiled: the segments are tiles.
        offsets, lengths: of the segments within the file, row by row, plane by plane.
        tables: begin and end of the tables that a JPEG's segments share.
    """

    order: str
    bits: int
    samples: int
    compression: int
    photometric: int
    predictor: int
    fill_order: int
    planar: bool
    extra: tuple[int, ...]
    colours: tuple[int, ...]
    tile: tuple[int, int]
    tiled: bool
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    tables: tuple[int, int]


@dataclass(frozen=True, slots=True)
class HeifItem:
    """A coded image of an AVIF or HEIC file, or a grid of them.

    Attributes:
        kind: ``av01``, ``hvc1`` or ``grid``.
        data: begins and ends of what is decoded of it within the file, metadata left out.
        properties: boxes that describe it, metadata left out.
        tiles: of a grid, row by row; empty for others.
    """

    kind: bytes
    data: tuple[tuple[int, int], ...]
    properties: tuple[bytes, ...]
    tiles: tuple[HeifItem, ...] = ()


@dataclass(frozen=True, slots=True)
class HeifImage:
    """The primary image of an AVIF or HEIC file.

    Attributes:
        image: the colours.
        alpha: their transparency; None where they are opaque.
        premultiplied: the colours are multiplied by it already.
        width, height: in pixels before the crop.
        left, top: of the part that is shown (a clean aperture).
        decoded: pixels of all frames and slices that have to be decoded.
        coded: bytes of them; tiles may share theirs, so they may be more than the file has.
        tiles: coded images.
    """

    image: HeifItem
    alpha: HeifItem | None
    premultiplied: bool
    width: int
    height: int
    left: int
    top: int
    decoded: int
    coded: int
    tiles: int


Layout = Frame | WebpImage | GifImage | Bitmap | TiffPage | HeifImage
L = TypeVar("L", bound=Layout)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an image file.

    Attributes:
        format: the file's format.
        width, height: in pixels, as stored (before the orientation is applied); may be zero, never negative.
        orientation: EXIF orientation, 1 to 8; 1 (upright) where there is none or it makes no sense.
        components: channels of a JPEG (1 grey, 3 colour, 4 CMYK or YCCK); 0 for other formats.
        complete: False where the file ends before its image can; reported, not raised, so that a size over
            the limit is refused as such.
        frames: of an animation, or pages of a TIFF, as the file tells them; 1 for a still image.
        layout: what the format's codec has to know besides; None for a PNG.
        stored: bytes that a PNG's pixel takes in Pillow's memory; 0 for other formats.
        raw: bytes of all rows of a PNG or TIFF, inflated; 0 for other formats.
    """

    format: Format
    width: int
    height: int
    orientation: int = 1
    components: int = 0
    complete: bool = True
    frames: int = 1
    layout: Layout | None = None
    stored: int = 0
    raw: int = 0

    def layout_as(self, kind: type[L]) -> L:
        """The layout, of the kind that the format has."""
        assert isinstance(self.layout, kind)  # noqa: S101 - by its format
        return self.layout

    def pixels_at(self, reduction: int) -> int:
        """Of the image with both sides divided by `reduction` and rounded up."""
        return -(-self.width // reduction) * -(-self.height // reduction)


MAX_SEGMENTS = 1_000
"""Parts that a walk through a file visits: far over what writers make, far under what would hold a thread."""
MAX_CHUNKS = 20_000
"""The same of short chunks."""
MAX_EXIF = 1 << 16
"""Bytes of an EXIF block, as long as a JPEG's can be; the orientation stands in its first directory."""
