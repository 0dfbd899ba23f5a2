"""Decoding: formats, colours, orientation, reduced decoding; against PIL as the independent reference."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PILImage

from models.headers.exif import read_orientation
from models.headers.header import Format
from models.headers.reader import read_header
from models.image import Image, Pixels, decode, encode
from tests.paths import SHARED, needs_shared


def smooth(height: int, width: int) -> Pixels:
    """A colour ramp that survives lossy formats and differs under every turn and flip."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (
        x * 200 / max(width - 1, 1),
        y * 200 / max(height - 1, 1),
        40 + (x + y) * 90 / (height + width),
    )
    return np.stack(channels, -1).astype(np.uint8)


def saved(pixels: NDArray[np.generic], kind: str, mode: str | None = None, **options: Any) -> bytes:
    picture = PILImage.fromarray(pixels)
    stream = io.BytesIO()
    (picture if mode is None else picture.convert(mode)).save(stream, kind, **options)
    return stream.getvalue()


def orientation_block(value: int, order: str = "<", kind: int = 3) -> bytes:
    head = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}I", 8)
    number = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    return head + struct.pack(f"{order}HHHI", 1, 0x0112, kind, 1) + number + bytes(4)


def difference(a: Pixels, b: Pixels) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (33, 50)])
def test_lossless_formats_come_back_exactly(kind: str, size: tuple[int, int]) -> None:
    pixels = smooth(*size)
    image = decode(saved(pixels, kind))
    assert (image.height, image.width) == size
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.writeable
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"keep_rgb": True}])
@pytest.mark.parametrize("size", [(1, 1), (9, 17), (80, 121)])
def test_jpeg_is_what_pil_decodes(options: dict[str, Any], size: tuple[int, int]) -> None:
    data = saved(smooth(*size), "JPEG", **options)
    expected = np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data).pixels, expected)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 90}])
def test_webp_is_what_pil_decodes(options: dict[str, Any]) -> None:
    data = saved(smooth(40, 60), "WEBP", **options)
    np.testing.assert_array_equal(
        decode(data).pixels, np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB"))
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    grey = smooth(20, 30)[..., 0]
    pixels = decode(saved(grey, kind, quality=100)).pixels
    assert difference(pixels, np.repeat(grey[..., None], 3, 2)) < 1
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_one_bit_pictures(kind: str) -> None:
    bits = np.indices((10, 13)).sum(0) % 2 == 0
    pixels = decode(saved(bits, kind)).pixels
    np.testing.assert_array_equal(pixels[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_palettes(kind: str) -> None:
    pixels = (smooth(16, 16) // 128 * 255).astype(np.uint8)
    np.testing.assert_array_equal(decode(saved(pixels, kind, "P")).pixels, pixels)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = decode(saved(ramp, "PNG")).pixels
    assert np.abs(pixels[..., 0].astype(int) - ramp / 257).max() <= 1
    assert pixels.max() == 255


def test_sixteen_bit_colour() -> None:
    levels = np.array([[[0, 257 * 100, 65535], [257 * 7, 257 * 200, 300]]], ">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in levels)
    data = png(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), chunk(b"IDAT", zlib.compress(rows))
    )
    np.testing.assert_array_equal(decode(data).pixels, (levels >> 8).astype(np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_over_white(kind: str) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 3] = [[0, 255], [128, 0]]
    result = decode(saved(pixels, kind, lossless=True)).pixels
    np.testing.assert_allclose(result[..., 0], [[255, 0], [127, 255]], atol=1)


def test_transparent_palette_entries_and_grey_alpha_are_laid_over_white() -> None:
    indices = PILImage.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    indices.putpalette([10, 20, 30, 40, 50, 60])
    stream = io.BytesIO()
    indices.save(stream, "PNG", transparency=1)
    np.testing.assert_array_equal(decode(stream.getvalue()).pixels, [[[10, 20, 30], [255, 255, 255]]])
    grey = np.zeros((1, 2, 4), np.uint8)
    grey[0, :, 3] = 0, 255
    np.testing.assert_array_equal(decode(saved(grey, "PNG", "LA")).pixels[0, :, 0], [255, 0])


def test_cmyk_jpeg_is_read_by_adobes_convention() -> None:
    pixels = smooth(48, 64)
    data = saved(pixels, "JPEG", "CMYK", quality=98)
    expected = np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB"))
    assert difference(decode(data).pixels, expected) < 1
    assert difference(decode(data).pixels, pixels) < 4


def test_ycck_jpeg() -> None:
    """An Adobe marker with transform 2 tells that the four planes are YCCK."""
    data = saved(smooth(48, 64), "JPEG", "CMYK", quality=98)
    at = data.index(b"Adobe")
    ycck = data[: at + 11] + b"\x02" + data[at + 12 :]
    expected = np.asarray(PILImage.open(io.BytesIO(ycck)).convert("RGB"))
    assert difference(expected, np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB"))) > 10
    assert difference(decode(ycck).pixels, expected) < 1


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """What a camera stores, so that `orientation` brings it back; by PIL's table of transpositions."""
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    picture = PILImage.fromarray(pixels)
    return np.asarray(picture if back is None else picture.transpose(PILImage.Transpose(back)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_all_orientations_come_out_upright(kind: str, orientation: int) -> None:
    pixels = smooth(24, 40)
    block = orientation_block(orientation, ">" if orientation % 2 else "<")
    data = saved(turned(pixels, orientation), kind, exif=b"Exif\x00\x00" + block, quality=95)
    image = decode(data)
    assert (image.width, image.height) == (40, 24)
    assert image.pixels.shape == (24, 40, 3)
    assert difference(image.pixels, pixels) < 3


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_png_may_tell_its_orientation_after_the_picture(orientation: int) -> None:
    pixels = smooth(6, 9)
    plain = saved(turned(pixels, orientation), "PNG")
    end = plain.rindex(b"IEND") - 4
    data = plain[:end] + chunk(b"eXIf", orientation_block(orientation)) + plain[end:]
    np.testing.assert_array_equal(decode(data).pixels, pixels)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_out_of_range_is_ignored(value: int) -> None:
    data = saved(smooth(6, 9), "JPEG", exif=b"Exif\x00\x00" + orientation_block(value))
    assert decode(data).pixels.shape == (6, 9, 3)


def test_orientation_as_a_long_is_read() -> None:
    assert read_orientation(orientation_block(6, kind=4)) == 6
    assert read_orientation(orientation_block(6, ">", kind=4)) == 6


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_exif_block_gives_an_orientation(tail: bytes) -> None:
    for order in (b"II*\x00", b"MM\x00*", b""):
        assert read_orientation(b"Exif\x00\x00" + order + tail) in {None, *range(1, 9)}


@given(st.integers(1, 8), st.sampled_from("<>"), st.data())
@settings(deadline=None)
def test_a_changed_byte_in_exif_gives_an_orientation(value: int, order: str, data: st.DataObject) -> None:
    block = bytearray(orientation_block(value, order))
    assert read_orientation(bytes(block)) == value
    block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    assert read_orientation(bytes(block)) in {None, *range(1, 9)}


@pytest.mark.parametrize(("min_side", "factor"), [(None, 1), (101, 1), (100, 2), (50, 4), (26, 4), (1, 8)])
def test_a_jpeg_is_reduced_while_twice_min_side_is_kept(min_side: int | None, factor: int) -> None:
    pixels = smooth(400, 641)
    image = decode(saved(pixels, "JPEG", quality=95), min_side=min_side)
    assert (image.height, image.width) == (400, 641)
    assert image.pixels.shape == (400 // factor, -(-641 // factor), 3)
    whole = np.asarray(PILImage.fromarray(pixels).resize(image.pixels.shape[1::-1], PILImage.Resampling.BOX))
    assert difference(image.pixels, whole) < 2


def test_reduction_of_a_turned_jpeg() -> None:
    data = saved(smooth(400, 600), "JPEG", exif=b"Exif\x00\x00" + orientation_block(6))
    image = decode(data, min_side=100)
    assert (image.width, image.height) == (400, 600)
    assert image.pixels.shape == (300, 200, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [PILImage.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], lossless=True)
    image = decode(stream.getvalue())
    np.testing.assert_array_equal(image.pixels[0, 0], [255, 0, 0])


def test_a_png_with_broken_animation_chunks_still_has_its_picture() -> None:
    pixels = smooth(6, 9)
    plain = saved(pixels, "PNG")
    data = plain[:33] + chunk(b"acTL", b"\xff") + plain[33:]
    np.testing.assert_array_equal(decode(data).pixels, pixels)


def test_the_declared_name_does_not_matter_but_the_bytes_do() -> None:
    assert read_header(saved(smooth(3, 4), "WEBP")).format is Format.WEBP
    assert read_header(saved(smooth(3, 4), "BMP")).format is Format.BMP


def test_bmp_rows_from_the_top() -> None:
    pixels = smooth(2, 4)
    rows = b"".join(np.ascontiguousarray(row[:, ::-1]).tobytes() for row in pixels)  # 12 bytes: no padding
    head = struct.pack("<IiiHHIIiiII", 40, 4, -2, 1, 24, 0, len(rows), 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + head + rows
    np.testing.assert_array_equal(decode(data).pixels, pixels)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_encode_is_undone_by_decode(kind: str) -> None:
    pixels = smooth(30, 41)
    image = decode(encode(pixels, kind, 95))  # type: ignore[arg-type]
    assert difference(image.pixels, pixels) < (0.5 if kind == "png" else 3)


def test_encode_takes_views() -> None:
    pixels = smooth(30, 41)[::-1, ::2]
    assert decode(encode(pixels, "jpeg")).pixels.shape == (30, 21, 3)
    np.testing.assert_array_equal(decode(encode(pixels, "png")).pixels, pixels)


def test_quality_matters() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert len(encode(noise, "jpeg", 30)) < len(encode(noise, "jpeg", 90))
    assert len(encode(noise, "webp", 30)) < len(encode(noise, "webp", 90))


@needs_shared
def test_real_pictures_are_what_pil_decodes() -> None:
    for path in sorted((SHARED / "data" / "photos").glob("*.jpg")):
        data = path.read_bytes()
        expected = np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB"))
        image = decode(data)
        assert isinstance(image, Image)
        np.testing.assert_array_equal(image.pixels, expected)
