"""Files that are wrong, hostile or cut short: three errors and never another, and no cost over the limits."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported
from models.image import Limits, decode, encode
from tests.models.image.test_decode import chunk, png, saved, smooth
from tests.paths import ROOT

HEIC = ROOT / "loadtests" / "fuzz" / "heic"


@cache
def samples() -> tuple[bytes, ...]:
    """Small real files of every format and of the odd kinds."""
    pixels = smooth(24, 33)
    alpha = np.dstack([pixels, pixels[..., :1]])
    animation = io.BytesIO()
    frames = [PILImage.fromarray(np.roll(pixels, shift, 1)) for shift in range(3)]
    frames[0].save(animation, "PNG", save_all=True, append_images=frames[1:])
    return (
        saved(pixels, "JPEG"),
        saved(pixels, "JPEG", progressive=True, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"),
        saved(pixels, "JPEG", "CMYK"),
        saved(pixels, "PNG"),
        saved(pixels, "PNG", "P"),
        animation.getvalue(),
        saved(alpha, "PNG"),
        saved(pixels, "WEBP"),
        saved(alpha, "WEBP", lossless=True),
        saved(pixels, "BMP"),
        saved(pixels, "BMP", "P"),
        saved(pixels, "GIF"),
        saved(pixels, "TIFF"),
        saved(pixels, "TIFF", compression="tiff_lzw"),
        saved(pixels, "AVIF"),
        (HEIC / "420.heic").read_bytes(),
    )


def jpeg_of_size(height: int, width: int) -> bytes:
    data = bytearray(saved(smooth(8, 8), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_of_size(height: int, width: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png(chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))))


def webp_of_size(height: int, width: int) -> bytes:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + sides
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_of_size(height: int, width: int, compression: int = 0) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + head + bytes(100)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_of_size(65500, 65500),
        jpeg_of_size(65535, 65535),
        png_of_size(2**31 - 1, 2**31 - 1),
        png_of_size(50_001, 1_000),
        webp_of_size(2**24, 2**24),
        bmp_of_size(2**31 - 1, 2**31 - 1),
        bmp_of_size(-(2**31), 100_000),
    ],
)
def test_a_bomb_is_refused_by_its_header(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(ImageTooLarge, match="pixels"):
        decode(data)
    assert time.process_time() - start < 0.5


def test_a_header_alone_is_refused_by_its_size_first_and_then_as_truncated() -> None:
    for build in (jpeg_of_size, png_of_size):
        head = build(60_000, 60_000)
        end = head.index(b"\xff\xda" if build is jpeg_of_size else b"IEND") - 4
        with pytest.raises(ImageTooLarge):
            decode(head[:end])
        with pytest.raises(ImageInvalid, match="truncated"):
            decode(build(60, 60)[:end])


@pytest.mark.parametrize(
    "data", [jpeg_of_size(0, 8), jpeg_of_size(8, 0), png_of_size(0, 0), bmp_of_size(0, 5), bmp_of_size(5, 0)]
)
def test_no_pixels(data: bytes) -> None:
    with pytest.raises(ImageInvalid, match="pixels"):
        decode(data)


def test_negative_width() -> None:
    with pytest.raises(ImageInvalid, match="negative"):
        decode(bmp_of_size(5, -5))


@pytest.mark.parametrize(("compression", "inside"), [(4, "a JPEG"), (5, "a PNG")])
def test_files_within_a_bmp(compression: int, inside: str) -> None:
    with pytest.raises(MediaTypeUnsupported, match=f"a BMP with {inside}"):
        decode(bmp_of_size(5, 5, compression))


def test_the_limits_are_exact() -> None:
    data = saved(smooth(10, 10), "PNG")
    assert decode(data, Limits(max_bytes=len(data), max_pixels=100)).width == 10
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode(data, Limits(max_bytes=len(data) - 1))
    with pytest.raises(ImageTooLarge, match="10 by 10 pixels"):
        decode(data, Limits(max_pixels=99))


def test_no_limit_of_pil_stands_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 60)  # 10 x 10 is over it: open() would warn
    for kind in ("PNG", "WEBP", "BMP", "JPEG", "GIF", "TIFF", "AVIF"):
        assert decode(saved(smooth(10, 10), kind)).width == 10


@pytest.mark.parametrize("index", range(16))
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(index: int, share: float) -> None:
    data = samples()[index]
    with pytest.raises(ImageInvalid):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_truncated(progressive: bool) -> None:
    data = saved(smooth(200, 300), "JPEG", progressive=progressive)
    for cut in (2, 10, len(data) // 2):
        with pytest.raises(ImageInvalid, match="truncated"):
            decode(data[:-cut])
    half = data[: len(data) // 2] + b"\xff\xd9"  # an end put in its middle
    if not progressive:
        with pytest.raises(ImageInvalid, match="truncated"):
            decode(half)


def test_stray_bytes_around_the_picture_are_harmless() -> None:
    data = saved(smooth(50, 60), "JPEG")
    expected = decode(data).pixels
    np.testing.assert_array_equal(decode(data + b"\r\n trailing").pixels, expected)
    scan = data.index(b"\xff\xda")
    np.testing.assert_array_equal(decode(data[:scan] + b"\x01\x02" + data[scan:]).pixels, expected)
    np.testing.assert_array_equal(decode(saved(smooth(5, 6), "PNG") + b"more").pixels, smooth(5, 6))


@pytest.mark.parametrize(
    "data",
    [
        b"GIF88a" + bytes(50),
        b"hello",
        b"\x00",
        b"BMW makes cars, not bitmaps",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"\xff\xd8",
        bytes(1000),
    ],
)
def test_other_formats_are_named_as_not_accepted(data: bytes) -> None:
    with pytest.raises(MediaTypeUnsupported, match="image/avif and image/heic"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7", "a PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG image"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a drawing --><svg>", "an SVG image"),
        (b"<!DOCTYPE html><html>", "an HTML or XML document"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\xff\xd8\xff\xf7\x00\x0b", "a JPEG-LS image"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "a video"),
        (b"\x00\x00\x00\x14ftypqt  \x00\x00\x02\x00qt  ", "a video"),
        (b"\x1a\x45\xdf\xa3\x01\x00", "a video"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "a video"),
        (b"\x00\x00\x00\x18ftypmsf1\x00\x00\x00\x00msf1hevc", "a HEIF sequence without a still image"),
        (b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01crx isom", "a camera's raw file"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00", "a camera's raw file"),
        (b"8BPS\x00\x01", "a Photoshop file"),
        (b"\x00\x00\x01\x00\x01\x00", "an icon"),
        (b"P6\n3 4\n255\n", "a Netpbm image"),
    ],
)
def test_other_formats_are_refused_by_their_names(data: bytes, name: str) -> None:
    with pytest.raises(MediaTypeUnsupported, match=f"^{name}.* is not supported; accepted are image/jpeg"):
        decode(data + bytes(20))


def test_nothing_at_all() -> None:
    with pytest.raises(ImageInvalid, match="empty"):
        decode(b"")


def test_too_many_scans() -> None:
    data = saved(smooth(16, 16), "JPEG", progressive=True)
    with pytest.raises(ImageInvalid, match="scans"):
        decode(data[:-2] + b"\xff\xda" * 101 + b"\xff\xd9")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1_000_000,
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"\xff\xd8\xff" + b"\x00\xff" * 2_000_000,
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 5, 8, 2, 0, 0, 0))
        + bytes(4_000_000),
        b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x08" + bytes(4_000_000),
    ],
)
def test_a_flood_of_segments_does_not_hold_the_thread(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(ImageInvalid):
        decode(data)
    assert time.process_time() - start < 0.5


def test_messages_tell_nothing_of_the_machine() -> None:
    for data in samples():
        with pytest.raises(ImageInvalid) as caught:
            decode(data[: len(data) // 2])
        assert "0x" not in str(caught.value)
        assert "<" not in str(caught.value)
        assert os.sep not in str(caught.value)


def attempt(data: bytes, min_side: int | None = None) -> None:
    """Decodes or raises one of the three."""
    try:
        image = decode(data, Limits(max_pixels=1_000_000), min_side=min_side)
    except (ImageInvalid, ImageTooLarge, MediaTypeUnsupported):
        return
    assert image.pixels.dtype == np.uint8
    assert image.pixels.ndim == 3
    assert min(image.pixels.shape) >= 1


PREFIXES = (
    b"",
    b"\xff\xd8\xff",
    b"\xff\xd8\xff\xe1",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x00\x00\x00\x00WEBP",
    b"BM",
    b"GIF89a",
    b"II*\x00\x08\x00\x00\x00",
    b"\x00\x00\x00\x10ftypavif\x00\x00\x00\x00",
)


@given(st.sampled_from(PREFIXES), st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes(prefix: bytes, data: bytes) -> None:
    attempt(prefix + data)


@given(st.integers(0, 15), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files(index: int, data: st.DataObject) -> None:
    mutated = bytearray(samples()[index])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(mutated) - 1, 400)) | st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                mutated[at] = data.draw(st.integers(0, 255))
            case "cut":
                del mutated[at : at + data.draw(st.integers(1, 20))]
            case "insert":
                mutated[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        if not mutated:
            return
    attempt(bytes(mutated), data.draw(st.sampled_from([None, 1, 8])))


@pytest.mark.parametrize(("kind", "side"), [("webp", 16_384), ("jpeg", 65_501), ("png", 65_501)])
def test_encode_refuses_what_the_format_cannot_hold(kind: str, side: int) -> None:
    with pytest.raises(ImageTooLarge, match="at most"):
        encode(np.zeros((1, side, 3), np.uint8), kind)  # type: ignore[arg-type]
