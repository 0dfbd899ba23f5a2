"""Every mode, depth, subsampling, orientation and layout that Pillow can write, against what Pillow reads."""

from __future__ import annotations

import io
import struct
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageOps

from loadtests.fuzz.imageseeds import tiff
from loadtests.imagefiles import bmp, chunk, segment
from models.errors import ImageInvalid, MediaTypeUnsupported
from models.image import decode, plan
from tests.models.image.test_decode import Pixels, difference, orientation_block, saved, smooth, turned
from tests.paths import SHARED, needs_shared

HEIGHT, WIDTH = 45, 61


def image(mode: str) -> PILImage.Image:
    pixels = smooth(HEIGHT, WIDTH)
    if mode == "RGBA":
        return PILImage.fromarray(np.dstack([pixels, pixels[..., 0]]))
    return PILImage.fromarray(pixels).convert(mode)


def written(mode: str, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image(mode).save(stream, kind, **options)
    return stream.getvalue()


def shown(data: bytes) -> Pixels:
    """What Pillow reads, upright and over white."""
    with PILImage.open(io.BytesIO(data)) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGBA")
    white = PILImage.new("RGBA", upright.size, "white")
    white.alpha_composite(upright)
    return np.asarray(white.convert("RGB"))


def check(data: bytes, frames: int = 1) -> None:
    decoded = decode(data)
    np.testing.assert_array_equal(decoded.pixels, shown(data))
    assert decoded.frames == frames
    assert decoded.pixels.flags.writeable


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_modes(kind: str, mode: str) -> None:
    check(written(mode, kind))


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("colours", [2, 5, 16, 256])
@pytest.mark.parametrize("options", [{}, {"transparency": 1}])
def test_gif(interlace: int, colours: int, options: dict[str, Any]) -> None:
    stream = io.BytesIO()
    image("RGB").quantize(colours).save(stream, "GIF", interlace=interlace, **options)
    check(stream.getvalue())


def frames(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    several = [image(mode), image(mode).transpose(PILImage.Transpose.ROTATE_180), image(mode)]
    several[0].save(stream, kind, save_all=True, append_images=several[1:], **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF", "TIFF"])
def test_of_several_frames_the_first_and_their_number(kind: str, mode: str) -> None:
    data = frames(kind, mode, **({"lossless": True} if kind == "WEBP" else {}))
    decoded = decode(data)
    assert decoded.frames == 3
    np.testing.assert_array_equal(decoded.pixels, shown(data))


def test_a_gif_frame_lies_on_a_white_canvas() -> None:
    data = bytearray(written("P", "GIF"))
    data[6:10] = struct.pack("<HH", 100, 90)
    at = data.index(b"\x2c\x00\x00\x00\x00")
    data[at + 1 : at + 5] = struct.pack("<HH", 20, 30)
    expected = np.full((90, 100, 3), 255, np.uint8)
    expected[30 : 30 + HEIGHT, 20 : 20 + WIDTH] = shown(written("P", "GIF"))
    np.testing.assert_array_equal(decode(bytes(data)).pixels, expected)
    data[6:10] = struct.pack("<HH", 3, 2)  # a canvas that is smaller grows
    assert decode(bytes(data)).pixels.shape == (30 + HEIGHT, 20 + WIDTH, 3)


def test_comments_and_extensions_of_a_gif_do_not_matter() -> None:
    plain = written("P", "GIF")
    at = plain.index(b"\x2c\x00\x00\x00\x00")
    comment = b"\x21\xfe" + b"\xff" * 256 + b"\x00"
    np.testing.assert_array_equal(decode(plain[:at] + 50 * comment + plain[at:]).pixels, shown(plain))


@pytest.mark.parametrize("blocks", [2_000_000, 300_000])
def test_a_gif_of_too_many_blocks_is_refused(blocks: int) -> None:
    plain = written("P", "GIF")
    with pytest.raises(ImageInvalid, match="blocks"):
        plan(plain[:-1] + b"\x21\xfe" + b"\x01\x00" * blocks + b"\x00;" + b"\x2c" * blocks)


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_tiff(mode: str, compression: str | None) -> None:
    check(written(mode, "TIFF", compression=compression))
    check(written(mode, "TIFF", compression=compression, tiffinfo={278: 7}))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_in_a_tiff(mode: str) -> None:
    check(written(mode, "TIFF", compression="jpeg"))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_the_predictor_of_a_tiff(mode: str, compression: str) -> None:
    check(written(mode, "TIFF", compression=compression, tiffinfo={317: 2}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_orientations(kind: str, orientation: int) -> None:
    pixels = turned(smooth(24, 40), orientation)
    if kind == "TIFF":
        data = saved(pixels, kind, tiffinfo={274: orientation})
        np.testing.assert_array_equal(decode(data).pixels, smooth(24, 40))
    else:
        data = saved(pixels, kind, exif=orientation_block(orientation), quality=95)
        np.testing.assert_array_equal(decode(data).pixels, shown(data))
        assert difference(decode(data).pixels, smooth(24, 40)) < 3


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [{}, {322: 16, 323: 16}, {322: 32, 323: 16}])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_depths_planes_and_tiles_of_a_tiff(order: str, tile: dict[int, int], planar: int, bits: int) -> None:
    """By the specification: Pillow reads no planes of 16 bits."""
    width, height, step = 40, 30, bits // 8
    tags = {258: (bits,) * 3, 262: 2, 277: 3, 284: planar, **tile}
    data = tiff(order, width, height, tags, Random(1))
    across, down = tile.get(322, width), tile.get(323, 7)
    columns, rows = -(-width // across), -(-height // down)
    planes, each = (3, 1) if planar == 2 else (1, 3)
    stored = np.frombuffer(data, np.uint8, planes * rows * columns * across * down * each * step, 8)
    grid = stored.reshape(planes, rows, columns, down, across, each, step)[
        ..., 0 if order == ">" else step - 1
    ]
    expected = grid.transpose(1, 3, 2, 4, 0, 5).reshape(rows * down, columns * across, 3)[:height, :width]
    np.testing.assert_array_equal(decode(data).pixels, expected)


def test_16_bit_grey_and_white_is_zero() -> None:
    levels = (np.arange(12, dtype=np.uint16) * 5_000).reshape(3, 4)
    for compression in (None, "tiff_lzw"):
        pixels = decode(saved(levels, "TIFF", compression=compression)).pixels
        np.testing.assert_array_equal(pixels[..., 0], levels >> 8)
    inverted = bytearray(saved(smooth(5, 6)[..., 0], "TIFF"))
    at = inverted.index(struct.pack("<HHI", 262, 3, 1)) + 8
    inverted[at] = 0
    np.testing.assert_array_equal(decode(bytes(inverted)).pixels[..., 1], 255 - smooth(5, 6)[..., 0])


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({259: 4}, "CCITT"),
        ({259: 6}, "old-style JPEG"),
        ({259: 50000}, "Zstandard"),
        ({262: 8}, "CIELab"),
        ({258: (32,)}, "32 bits"),
        ({339: 3}, "floating-point"),
        ({50706: 1}, "a camera's raw file"),
    ],
)
def test_a_tiff_that_is_not_decoded_says_why(tags: dict[int, Any], words: str) -> None:
    tags = {258: (8,), 262: 1, 277: 1, **tags}
    with pytest.raises(MediaTypeUnsupported, match=words):
        decode(tiff("<", 40, 30, tags, Random(1)))


def test_a_big_tiff() -> None:
    pixels = smooth(HEIGHT, WIDTH)
    np.testing.assert_array_equal(decode(saved(pixels, "TIFF", big_tiff=True)).pixels, pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("subsampling", ["4:0:0", "4:2:0", "4:2:2", "4:4:4"])
def test_avif(mode: str, subsampling: str) -> None:
    check(written(mode, "AVIF", subsampling=subsampling, quality=70))


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("down", [False, True])
def test_bit_fields(bits: int, down: bool) -> None:
    masks = {16: (0xF800, 0x7E0, 0x1F), 32: (0x3FF00000, 0xFFC00, 0x3FF)}[bits]
    most = [mask >> ((mask & -mask).bit_length() - 1) for mask in masks]
    shifts = [(mask & -mask).bit_length() - 1 for mask in masks]
    values = smooth(20, 30).astype(np.uint32)
    words = sum(values[..., c] * most[c] // 255 << shifts[c] for c in range(3))
    body = np.asarray(words if down else words[::-1]).astype(f"<u{bits // 8}").tobytes()
    data = bmp(bits, 3, 30, -20 if down else 20, body, struct.pack("<III", *masks))
    assert np.abs(decode(data).pixels.astype(int) - values).max() <= 8


def test_alpha_of_a_bmp_where_there_is_any() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
    data = saved(pixels, "BMP")
    np.testing.assert_array_equal(decode(data).pixels, shown(data))
    pixels[..., 3] = 0  # as some programs leave it: the image is opaque
    np.testing.assert_array_equal(decode(saved(pixels, "BMP")).pixels, pixels[..., :3])


@pytest.mark.parametrize("bits", [8, 4])
def test_run_lengths(bits: int) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (1 << bits, 4), np.uint8)
    rows = np.random.default_rng(2).integers(0, 1 << bits, (5, 12)).repeat(2, axis=1)
    body = b""
    for row in rows:
        for value in row[::2]:
            body += bytes([2, value if bits == 8 else value * 17])
        body += b"\x00\x00"
    data = bmp(bits, 1 if bits == 8 else 2, 24, 5, body + b"\x00\x01", palette.tobytes())
    np.testing.assert_array_equal(decode(data).pixels, palette[rows[::-1]][..., 2::-1])


def test_the_first_exif_block_that_tells_an_orientation_counts() -> None:
    plain = saved(smooth(24, 40), "JPEG")
    blocks = [b"", b"II*\x00\x08\x00\x00\x00\x00\x00", orientation_block(6), orientation_block(3)]
    several = b"".join(segment(0xE1, b"Exif\x00\x00" + block) for block in blocks)
    assert plan(plain[:2] + several + plain[2:]).header.orientation == 6


def test_a_broken_transparency_of_a_png_is_left_out() -> None:
    plain = saved(smooth(6, 9), "PNG")
    broken = chunk(b"tRNS", smooth(6, 9)[0, 0].astype(">u2").tobytes())[:-4] + b"oops"
    np.testing.assert_array_equal(decode(plain[:33] + broken + plain[33:]).pixels, smooth(6, 9))


CASES = {
    "bmpsuite-pal8rle.bmp": (127, 64),
    "bmpsuite-rgb32bf.bmp": (127, 64),
    "exif-empty-then-6.jpg": (144, 192),
    "picture.avif": (192, 144),
    "picture.gif": (192, 144),
    "png-iccp-2mb.png": (192, 144),
    "png-text-bad-crc.png": (192, 144),
}


@needs_shared
@pytest.mark.parametrize("name", CASES)
def test_files_from_the_field(name: str) -> None:
    decoded = decode((SHARED / "cases" / name).read_bytes())
    assert (decoded.width, decoded.height) == CASES[name]


@needs_shared
def test_run_lengths_and_plain_pixels_of_one_image_are_the_same() -> None:
    files = [(SHARED / "cases" / f"bmpsuite-{name}.bmp").read_bytes() for name in ("pal8rle", "rgb32bf")]
    coded, plain = (decode(data).pixels for data in files)
    assert difference(coded, plain) < 20  # the first one has 252 colours
