"""The images that are sent: small files of many pixels, of every accepted format and frame type."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loadtests.hostile import jpeg, png, webp
from loadtests.hostile.documents import form, part
from loadtests.hostile.jpeg import Frame
from loadtests.imagefiles import bmp, heif_grid

Maker = Callable[[], bytes]
SIDE = 7_000
"""Of 49 megapixels, just below the limit."""
SHAPES = ((SIDE, SIDE), (65_500, 763), (763, 65_500))
GREY = ((1, 1),)
FULL = ((1, 1),) * 3
SUBSAMPLED = ((2, 2), (1, 1), (1, 1))
COSTLY = ("png 1 bit", "png rgb", "webp alpha", "jpeg cmyk", "jpeg honest")
"""Those that the other routes are asked with."""
QUICK = (
    "jpeg baseline 3000 scans",
    "jpeg progressive 98 scans",
    "jpeg arithmetic 98 scans",
    "jpeg lossless 520",
    "jpeg cmyk",
    "png rgba 16 bit",
    "png 19900 profiles",
    "png 1 x 49000000",
    "webp alpha",
    "webp animated, frames",
    "bmp 1 bit",
    "bmp runs of one pixel",
    "avif rgb 4:4:4",
    "avif grid of noise",
    "heic flat12 24 megapixels",
    "gif",
    "gif blocks of a byte",
    "tiff tiff_lzw CMYK",
    "tiff strips of a row",
)
"""Those of the reduced run."""


@cache
def all_images() -> dict[str, Maker]:
    """Makers of every image by name, each of which keeps what it made."""
    makers: dict[str, Maker] = {}
    _jpegs(makers)
    _pngs(makers)
    _others(makers)
    _media(makers)
    return {name: cache(make) for name, make in makers.items()}


def _jpegs(makers: dict[str, Maker]) -> None:
    for frame in Frame:
        name = frame.name.lower().replace("_", " ")
        counts = [300, 3_000, 100_000] if frame in (Frame.BASELINE, Frame.EXTENDED) else [1, 3, 98, 1_000]
        for count in counts:
            makers[f"jpeg {name} {count} scans"] = partial(jpeg.empty, SIDE, SIDE, frame=frame, scans=count)
        makers[f"jpeg {name} grey"] = partial(
            jpeg.empty, SIDE, SIDE, frame=frame, scans=counts[1], sampling=GREY
        )
    zeros = partial(jpeg.empty, SIDE, SIDE, scan_data=bytes(500))
    makers["jpeg arithmetic 98 scans of zeros"] = partial(zeros, frame=Frame.ARITHMETIC, scans=98)
    makers["jpeg arithmetic progressive 98 scans of zeros"] = partial(
        zeros, frame=Frame.ARITHMETIC_PROGRESSIVE, scans=98
    )
    makers["jpeg progressive 98 scans of zeros"] = partial(zeros, frame=Frame.PROGRESSIVE, scans=98)
    makers["jpeg baseline interleaved 3000 scans"] = partial(
        jpeg.empty, SIDE, SIDE, scans=3_000, interleaved=True
    )
    makers["jpeg baseline restarts"] = partial(jpeg.empty, SIDE, SIDE, scans=300, restart=1)
    for width, height in SHAPES[1:]:
        makers[f"jpeg baseline {width} x {height}"] = partial(jpeg.empty, width, height, scans=3_000)
        makers[f"jpeg progressive {width} x {height}"] = partial(
            jpeg.empty, width, height, frame=Frame.PROGRESSIVE, scans=98
        )
    for sampling in (
        SUBSAMPLED,
        ((4, 1), (1, 1), (1, 1)),
        ((1, 4), (1, 1), (1, 1)),
        ((2, 1), (1, 2), (1, 1)),
    ):
        name = ", ".join(f"{across}x{down}" for across, down in sampling)
        makers[f"jpeg baseline {name}"] = partial(jpeg.empty, SIDE, SIDE, scans=3_000, sampling=sampling)
    for transform, name in ((None, "cmyk, no marker"), (0, "cmyk"), (2, "ycck")):
        makers[f"jpeg {name}"] = partial(
            jpeg.empty, SIDE, SIDE, sampling=((1, 1),) * 4, adobe=transform, interleaved=True
        )
        makers[f"jpeg {name} 1000 scans"] = partial(
            jpeg.empty, SIDE, SIDE, sampling=((1, 1),) * 4, adobe=transform, scans=1_000
        )
    for frame in (Frame.EXTENDED, Frame.PROGRESSIVE, Frame.ARITHMETIC):
        name = frame.name.lower()
        makers[f"jpeg 12 bit {name}"] = partial(jpeg.empty, SIDE, SIDE, frame=frame, precision=12, scans=300)
    makers["jpeg hierarchical"] = partial(jpeg.empty, SIDE, SIDE, hierarchical=True, scans=300)
    for side in (200, 520, 1_000, 2_000):
        makers[f"jpeg lossless {side}"] = partial(jpeg.lossless, side, side)
        makers[f"jpeg lossless {side} rgb"] = partial(jpeg.lossless, side, side, components=3)
    makers["jpeg lossless large"] = partial(jpeg.lossless, SIDE, SIDE)
    makers["jpeg 2 megapixels progressive arithmetic"] = partial(
        jpeg.empty, 1_600, 1_250, frame=Frame.ARITHMETIC_PROGRESSIVE, scans=98, scan_data=bytes(500)
    )
    makers["jpeg 2 megapixels baseline 50000 scans"] = partial(jpeg.empty, 1_600, 1_250, scans=50_000)
    makers["jpeg tiny 2000000 scans"] = partial(jpeg.empty, 8, 8, scans=2_000_000)
    makers["jpeg honest"] = _honest
    makers["jpeg honest and 3000 scans"] = lambda: jpeg.with_scans(_honest(), 3_000)


def _pngs(makers: dict[str, Maker]) -> None:
    kinds = {
        "1 bit": (1, 0),
        "4 bit": (4, 0),
        "grey": (8, 0),
        "16 bit": (16, 0),
        "rgb": (8, 2),
        "rgb 16 bit": (16, 2),
    }
    kinds |= {
        "palette": (8, 3),
        "grey and alpha": (8, 4),
        "rgba": (8, 6),
        "rgba 16 bit": (16, 6),
        "2 bit": (2, 0),
    }
    for name, (depth, color) in kinds.items():
        make = partial(png.uniform, SIDE, SIDE, depth=depth, color=color)
        makers[f"png {name}"] = make
        makers[f"png {name} interlaced"] = partial(make, interlaced=True)
        if color in (0, 2, 3):
            makers[f"png {name} transparent"] = partial(make, transparent=True)
    makers["png 1 x 49000000"] = partial(png.uniform, 1, 49_000_000, depth=8, color=0)
    makers["png 49000000 x 1"] = partial(png.uniform, 49_000_000, 1, depth=8, color=6)
    makers["png 65500 x 763"] = partial(png.uniform, 65_500, 763, color=6)
    makers["png 65500 x 763 interlaced"] = partial(png.uniform, 65_500, 763, color=6, interlaced=True)
    small = partial(png.uniform, 100, 100)
    for count in (180, 19_900):
        makers[f"png {count} profiles"] = partial(_with, small, partial(png.profiles, count))
        makers[f"png {count} zTXt"] = partial(_with, small, partial(png.compressed_texts, count))
        makers[f"png {count} iTXt"] = partial(
            _with, small, partial(png.compressed_texts, count, international=True)
        )
    makers["png a profile of 256 MiB"] = partial(_with, small, partial(png.profiles, 1, 2**28))
    for count in (50_000, 1_000_000):
        makers[f"png {count} chunks"] = partial(_with, small, partial(png.small_chunks, count))
        makers[f"png {count} empty chunks"] = partial(
            _with, small, partial(png.small_chunks, count, b"IDAT", b"")
        )
    makers["png 40000 EXIF blocks"] = partial(
        _with, small, partial(png.small_chunks, 40_000, b"eXIf", b"II*\x00" + bytes(400))
    )
    makers["png animated"] = partial(png.animated, SIDE, SIDE, 2)
    makers["png animated 50000 frames"] = partial(png.animated, 100, 100, 50_000)


def _others(makers: dict[str, Maker]) -> None:
    makers["webp"] = partial(webp.lossless, SIDE, SIDE)
    makers["webp alpha"] = partial(webp.lossless, SIDE, SIDE, alpha=True)
    makers["webp extended"] = partial(webp.extended, SIDE, SIDE)
    makers["webp alpha 16384 x 2990"] = partial(webp.lossless, 16_384, 2_990, alpha=True)
    makers["webp alpha 2990 x 16384"] = partial(webp.lossless, 2_990, 16_384, alpha=True)
    makers["webp animated"] = partial(webp.animation, SIDE, SIDE, 1)
    makers["webp animated, thin"] = partial(webp.animation, 65_500, 763, 1)
    makers["webp animated, large frames"] = partial(webp.animation, SIDE, SIDE, 50, SIDE)
    makers["webp animated, frames"] = partial(webp.animation, SIDE, SIDE, 300_000)
    makers["webp lossy, cut"] = partial(webp.cut_lossy, SIDE, SIDE)
    makers["webp lossy"] = partial(_saved, "RGB", "WEBP", SIDE, method=0, quality=10)
    makers["webp lossy alpha"] = partial(_saved, "RGBA", "WEBP", SIDE, method=0, quality=10)
    for bits in (1, 8, 24, 32):
        makers[f"bmp {bits} bit without data"] = partial(webp.bitmap, SIDE, SIDE, bits=bits, data=False)
    makers["bmp 1 bit"] = partial(webp.bitmap, SIDE, SIDE, bits=1)
    makers["bmp 1 bit, from the top"] = partial(webp.bitmap, SIDE, -SIDE, bits=1)
    makers["bmp 1 x 2000000"] = partial(webp.bitmap, 1, 2_000_000, bits=1)
    makers["bmp a palette of 4 billion"] = partial(webp.bitmap, 100, 100, bits=8, colors=2**32 - 1)
    makers["bmp run lengths, ended at once"] = partial(bmp, 8, 1, SIDE, SIDE, b"\x00\x01", bytes(1_024))
    makers["bmp runs of one pixel"] = partial(bmp, 8, 1, SIDE, SIDE, b"\x01\x07" * 9_000_000, bytes(1_024))
    makers["noise 640"] = _noise


def _media(makers: dict[str, Maker]) -> None:
    for mode, chroma in (("RGB", "4:2:0"), ("RGB", "4:4:4"), ("RGBA", "4:4:4")):
        name = f"avif {mode.lower()} {chroma}"
        makers[name] = partial(_saved, mode, "AVIF", SIDE, speed=10, subsampling=chroma)
    makers["avif 24 megapixels with alpha"] = partial(_saved, "RGBA", "AVIF", 4_900, speed=10)
    makers["avif grid"] = partial(_avif_grid, 22)
    makers["avif grid of noise"] = partial(_avif_grid, 22, noise=True)
    makers["avif grid of 2500 tiles"] = partial(_avif_grid, 50)
    for name in ("flat", "flat12"):
        makers[f"heic {name} 24 megapixels"] = partial(_heic_grid, name, 19, (256, 256))
        makers[f"heic {name} 31 megapixels"] = partial(_heic_grid, name, 22, (256, 256))
    makers["heic of 400 small tiles"] = partial(_heic_grid, "444", 20, (88, 64))
    makers["gif"] = partial(_saved, "P", "GIF", SIDE)
    makers["gif 300000 frames"] = lambda: (
        _saved("P", "GIF", 10)[:-1]
        + (b"\x2c" + bytes(4) + b"\x01\x00\x01\x00\x00\x02\x02L\x01\x00") * 300_000
    )
    makers["gif blocks of a byte"] = lambda: (
        _saved("P", "GIF", 10)[:-1] + b"\x21\xfe" + b"\x01\x00" * 9_000_000
    )
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        for mode in ("RGB",) if compression == "jpeg" else ("RGB", "CMYK", "1", "I;16"):
            makers[f"tiff {compression} {mode}"] = partial(
                _saved, mode, "TIFF", SIDE, compression=compression
            )
    makers["tiff one strip"] = partial(
        _saved, "RGB", "TIFF", SIDE, compression="tiff_adobe_deflate", tiffinfo={278: SIDE}
    )
    makers["tiff strips of a row"] = partial(
        _saved, "RGB", "TIFF", SIDE, compression="tiff_lzw", tiffinfo={278: 1}
    )
    makers["tiff directory of 65535 tags"] = lambda: b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(12 * 65_535)
    makers["tiff pages in a ring"] = lambda: _ring(100_000)


@cache
def small() -> bytes:
    """An ordinary JPEG of a few kilobytes: what the neighbours send."""
    x, y = np.meshgrid(np.linspace(0, 255, 192), np.linspace(0, 255, 144))
    pixels = np.stack([x, y, 255 - x], axis=2).astype(np.uint8)
    return _encoded(Image.fromarray(pixels), "JPEG")


def form_of(name: str, count: int) -> bytes:
    """A multipart body of the same image so many times."""
    return form(*[part(all_images()[name]())] * count)


def _with(make: Callable[..., bytes], before: Callable[[], list[bytes]]) -> bytes:
    return make(before=before())


@cache
def _honest() -> bytes:
    """A complete grey baseline JPEG of 49 megapixels."""
    return _encoded(Image.new("L", (SIDE, SIDE), 128), "JPEG")


def _saved(mode: str, kind: str, side: int, **options: Any) -> bytes:
    image = Image.new(
        mode, (side, side), 7 if len(mode) < 3 or mode == "I;16" else (40, 90, 200, 128)[: len(mode)]
    )
    if mode == "P":
        image.putpalette(bytes(768))
    return _encoded(image, kind, **options)


def _avif_grid(count: int, *, noise: bool = False) -> bytes:
    levels = np.random.default_rng(1).integers(0, 256 if noise else 1, (256, 256, 3), dtype=np.uint8)
    tile = _encoded(Image.fromarray(levels), "AVIF", quality=90, speed=10)
    return heif_grid(tile, count, count, 256 * count, 256 * count)


def _heic_grid(name: str, count: int, tile: tuple[int, int]) -> bytes:
    """`count` times `count` tiles of that width and height, each a file of the fuzzing."""
    data = (Path(__file__).parents[1] / "fuzz" / "heic" / f"{name}.heic").read_bytes()
    return heif_grid(data, count, count, tile[0] * count, tile[1] * count)


def _ring(pages: int) -> bytes:
    """A TIFF of many pages, the last of which is followed by the first."""
    image = _saved("L", "TIFF", 10)
    begin = int.from_bytes(image[4:8], "little")
    count = int.from_bytes(image[begin : begin + 2], "little")
    directory = image[begin : begin + 2 + 12 * count]
    first = len(image) + len(image) % 2
    size = len(directory) + 4
    links = [(first + size * (page + 1)).to_bytes(4, "little") for page in range(pages - 1)]
    links.append(first.to_bytes(4, "little"))
    return (
        image[:4]
        + first.to_bytes(4, "little")
        + image[8:].ljust(first - 8, b"\x00")
        + b"".join(directory + link for link in links)
    )


def _noise() -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    return _encoded(Image.fromarray(pixels), "PNG")


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
