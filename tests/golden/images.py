"""Images that the requests carry: generated, the same everywhere, or photos of the shared data folder."""

from __future__ import annotations

import io
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tests.paths import SHARED

PHOTOS = {
    "dog": "data/photos/dog.jpg",
    "person": "data/photos/person.jpg",
    "obama": "data/faces/obama/0.jpg",
    "obama2": "data/faces/obama/1.jpg",
    "biden": "data/faces/biden/0.jpg",
    "two_people": "data/faces/groups/two_people.jpg",
}
"""Names of photos, each with its path below the shared data folder."""

SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
"""The lit segments of a seven-segment display by digit."""
LINES = {
    "a": ((8, 4), (20, 4)),
    "b": ((20, 4), (20, 14)),
    "c": ((20, 14), (20, 24)),
    "d": ((8, 24), (20, 24)),
    "e": ((8, 14), (8, 24)),
    "f": ((8, 4), (8, 14)),
    "g": ((8, 14), (20, 14)),
}


def present(name: str) -> bool:
    """Whether the image of this name can be had: a photo only where the shared folder is."""
    return name not in PHOTOS or (SHARED / PHOTOS[name]).exists()


@cache
def image(name: str) -> bytes:
    """The encoded image of this name: of `PHOTOS`, or generated as `_generated` says.

    Raises:
        KeyError: there is none of this name.
    """
    if name in PHOTOS:
        return (SHARED / PHOTOS[name]).read_bytes()
    return _generated(name)


def _generated(name: str) -> bytes:
    kind, _, rest = name.partition("-")
    match kind:
        case "gradient":  # gradient-FORMAT: 160 x 120
            return _encoded(_gradient(160, 120), rest)
        case "shapes":
            return _encoded(_shapes(200, 150), rest)
        case "noise":
            return _encoded(Image.fromarray(_noise(96, 96, seed=int(rest))), "png")
        case "digit":
            return _encoded(_digit(int(rest)), "png")
        case "chip":  # 150 x 150, what an embedding network takes
            return _encoded(_gradient(150, 150), "png")
        case "turned":  # EXIF orientation 6: 160 x 120 stored, 120 x 160 upright
            exif = Image.Exif()
            exif[0x0112] = 6
            return _encoded(_gradient(160, 120), "jpeg", exif=exif.tobytes())
        case "gif":
            return _encoded(_shapes(40, 30).convert("P"), "gif")
        case "cut":
            return _encoded(_gradient(160, 120), "jpeg")[:900]
        case "text":
            return b"this is no image"
        case "empty":
            return b""
        case "large":  # more bytes than an image may have in the end-to-end tests' server
            return _encoded(_gradient(160, 120), "jpeg") + bytes(5 * 1024 * 1024)
        case "pixels":  # more pixels than an image may have; two bits of a header say so
            return _huge_png(8000, 8000)
    raise KeyError(name)


def _gradient(width: int, height: int) -> Image.Image:
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    red, green = np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))
    return Image.fromarray(np.stack([red, green, 255 - (red + green) / 2], axis=2).astype(np.uint8))


def _shapes(width: int, height: int) -> Image.Image:
    canvas = Image.new("RGB", (width, height), (90, 140, 200))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((10, height // 2, width - 10, height), fill=(60, 120, 40))
    draw.ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), fill=(220, 60, 40))
    draw.polygon([(20, 20), (60, 20), (40, 60)], fill=(250, 230, 80))
    return canvas


def _noise(width: int, height: int, *, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _digit(digit: int) -> Image.Image:
    canvas = Image.new("L", (28, 28))
    draw = ImageDraw.Draw(canvas)
    for segment in SEGMENTS[digit]:
        draw.line(LINES[segment], fill=255, width=3)
    return canvas


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """`kind` is a format of Pillow's or one of the variants below."""
    alpha = Image.linear_gradient("L").resize(picture.size)
    target = kind
    match kind:
        case "progressive":
            target, options = "jpeg", {**options, "progressive": True}
        case "cmyk":
            target, picture = "jpeg", picture.convert("CMYK")
        case "grey":
            target, picture = "jpeg", picture.convert("L")
        case "palette":
            target, picture = "png", picture.quantize(16)
        case "bilevel":
            target, picture = "png", picture.convert("1")
        case "sixteen":
            grey = np.asarray(picture.convert("L"), dtype=np.uint16) * 257
            target, picture = "png", Image.fromarray(grey)
        case "rgba":
            target = "png"
            picture = picture.convert("RGBA")
            picture.putalpha(alpha)
        case "webpalpha":
            target, options = "webp", {**options, "lossless": True}
            picture = picture.convert("RGBA")
            picture.putalpha(alpha)
    if target == "jpeg":
        options.setdefault("quality", 92)
    out = io.BytesIO()
    picture.save(out, target, **options)
    return out.getvalue()


def _huge_png(width: int, height: int) -> bytes:
    small = bytearray(_encoded(Image.new("L", (8, 8)), "png"))
    small[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4, "big")
    return bytes(small)
