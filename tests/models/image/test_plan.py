"""What is known of an image before it is decoded, and that no decoder gets another kind than it takes."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from loadtests.imagefiles import COLOUR, PNG_MAGIC, Scan, chunk, empty_bands, entropy, frame, jpeg, segment
from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported
from models.image import DEFAULT_LIMITS, Limits, decode, plan
from tests.models.image.test_decode import difference, orientation_block, saved, smooth
from tests.paths import SHARED, needs_shared

SIDES = (None, 1, 8, 28, 64, 100, 224, 640, 1440)


def bare_scan(components: int = 3) -> Scan:
    return Scan(tuple(range(1, components + 1)))


@pytest.mark.parametrize("min_side", SIDES)
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0xC3, "a lossless"),
        (0xC5, "hierarchical"),
        (0xC6, "hierarchical"),
        (0xC7, "hierarchical lossless"),
        (0xC9, "arithmetic"),
        (0xCA, "arithmetic"),
        (0xCB, "lossless"),
        (0xCD, "hierarchical"),
        (0xCE, "hierarchical"),
        (0xCF, "hierarchical"),
    ],
)
def test_other_frame_types_are_refused_by_their_names(code: int, words: str, min_side: int | None) -> None:
    for sampling in (((1, 1),), COLOUR, (*COLOUR, (1, 1))):
        data = jpeg(code, 520, 520, sampling, [Scan(tuple(range(1, len(sampling) + 1)), 1, 0)])
        with pytest.raises(ImageInvalid, match=words):
            decode(data, min_side=min_side)


@needs_shared
@pytest.mark.parametrize("min_side", SIDES)
def test_the_lossless_file_that_ended_workers(min_side: int | None) -> None:
    with pytest.raises(ImageInvalid, match="lossless"):
        decode((SHARED / "cases" / "lossless-520.jpg").read_bytes(), min_side=min_side)


@pytest.mark.parametrize("precision", [1, 7, 12, 16])
def test_other_precisions_are_refused_by_their_names(precision: int) -> None:
    data = jpeg(0xC1, 16, 16, COLOUR, [bare_scan()], precision=precision)
    with pytest.raises(ImageInvalid, match=f"{precision}-bit"):
        decode(data)


@pytest.mark.parametrize("second", [0xC0, 0xC1, 0xC2, 0xC3])
def test_two_frame_headers_are_refused(second: int) -> None:
    extra = frame(second, 8, 8, COLOUR)
    with pytest.raises(ImageInvalid, match="more than one"):
        decode(jpeg(0xC0, 800, 800, COLOUR, [bare_scan()], extra=extra), min_side=8)


def test_a_frame_behind_the_first_scan_decides_nothing() -> None:
    pixels = smooth(64, 64)
    data = saved(pixels, "JPEG")
    late = data[:-2] + frame(0xC3, 8000, 6000, COLOUR) + bytes(bare_scan()) + b"\xff\xd9"
    for min_side in SIDES:
        try:
            image = decode(late, min_side=min_side)
        except ImageInvalid:
            continue
        assert (image.height, image.width) == (64, 64)


def test_a_frame_in_a_segment_decides_nothing() -> None:
    """As that of the thumbnail within a camera's EXIF."""
    data = saved(smooth(400, 600), "JPEG")
    thumbnail = segment(0xE1, b"Exif\x00\x00" + saved(smooth(16, 24), "JPEG"))
    image = decode(data[:2] + thumbnail + data[2:], min_side=50)
    assert (image.height, image.width) == (400, 600)
    assert image.pixels.shape == (100, 150, 3)
    assert difference(image.pixels, decode(data, min_side=50).pixels) == 0


@pytest.mark.parametrize("count", [0, 2, 5, 255])
def test_other_numbers_of_components(count: int) -> None:
    data = jpeg(0xC0, 16, 16, ((1, 1),) * count, [bare_scan(min(count, 4))])
    with pytest.raises(ImageInvalid):
        decode(data)


def test_height_zero_with_a_later_number_of_lines() -> None:
    data = jpeg(0xC0, 0, 16, COLOUR, [bare_scan()])[:-2] + segment(0xDC, struct.pack(">H", 16)) + b"\xff\xd9"
    with pytest.raises(ImageInvalid, match="0 pixels"):
        decode(data)


FACTORS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    st.sampled_from([1, 3, 4]).flatmap(lambda n: st.lists(FACTORS, min_size=n, max_size=n)),
    st.sampled_from([0xC0, 0xC1, 0xC2]),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(SIDES),
)
@settings(deadline=None)
def test_any_sampling_comes_out_in_its_own_size_or_not_at_all(
    sampling: list[tuple[int, int]], code: int, height: int, width: int, min_side: int | None
) -> None:
    data = jpeg(
        code,
        height,
        width,
        sampling,
        [
            Scan(
                bare_scan(len(sampling)).components,
                last=0 if code == 0xC2 else 63,
                data=entropy("01" * 20_000),
            )
        ],
    )
    expected = plan(data, min_side=min_side)
    try:
        image = decode(data, min_side=min_side)
    except ImageInvalid:
        return
    factor = expected.reduction
    assert image.pixels.shape == (-(-height // factor), -(-width // factor), 3)


@pytest.mark.parametrize("code", [0xC0, 0xC1, 0xC2])
@pytest.mark.parametrize("scans", [101, 300, 3_000, 200_000])
def test_more_scans_than_any_writer_makes_are_refused(code: int, scans: int) -> None:
    data = jpeg(code, 16, 16, COLOUR, [Scan((1,), 0, 0 if code == 0xC2 else 63)] * scans)
    with pytest.raises(ImageInvalid, match="scans"):
        plan(data)


def refinements(count: int, side: int) -> bytes:
    bands = empty_bands((side // 8) ** 2)
    return jpeg(
        0xC2,
        side,
        side,
        COLOUR,
        [Scan((1, 2, 3), 0, 0, 0, 1), *[Scan((1,), 1, 63, 1, 0, bands)] * count],
    )


def test_scans_are_refused_by_their_number_times_the_blocks() -> None:
    plan(refinements(90, 2_000))
    with pytest.raises(ImageInvalid, match="scans"):
        plan(refinements(90, 7_000))
    with pytest.raises(ImageInvalid, match="scans"):
        plan(refinements(90, 2_000), Limits(max_pixels=4_000_000))  # it grows with the setting


def test_baseline_scans_of_one_component_cost_too() -> None:
    data = jpeg(0xC0, 7_000, 7_000, COLOUR, [Scan((1,)), *[Scan((2, 3))] * 30])
    with pytest.raises(ImageInvalid, match="scans"):
        plan(data)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_progressive_files_as_encoders_write_them_pass_at_the_limit(mode: str) -> None:
    small = saved(smooth(64, 64), "JPEG", mode, progressive=True, subsampling=0)
    at = small.index(b"\xff\xc2")
    data = small[: at + 5] + struct.pack(">HH", 7_070, 7_070) + small[at + 9 :]
    assert plan(data).header.width == 7_070


def test_what_lies_behind_the_image_is_no_scan_of_it() -> None:
    """Phones append videos and further images."""
    data = saved(smooth(64, 64), "JPEG", progressive=True)
    tail = np.random.default_rng(0).bytes(8 << 20)
    assert plan(data + tail).reduction == 1
    assert decode(data + saved(smooth(32, 32), "JPEG", progressive=True)).width == 64


def test_a_plan_is_what_decode_does() -> None:
    data = saved(smooth(800, 1200), "JPEG", exif=b"Exif\x00\x00" + orientation_block(6))
    made = plan(data, min_side=50)
    assert made.reduction == 8
    assert not made.large
    image = decode(data, plan=made)
    np.testing.assert_array_equal(image.pixels, decode(data, min_side=50).pixels)
    assert (image.width, image.height) == (800, 1200)
    assert plan(jpeg(0xC0, 3_000, 4_000, COLOUR, [bare_scan()])).large


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("most", [1, 2, 999, 60_000, 239_999, 240_000])
def test_max_pixels_is_kept_and_proportions_too(kind: str, most: int) -> None:
    pixels = smooth(400, 600)
    image = decode(saved(pixels, kind), max_pixels=most)
    assert (image.height, image.width) == (400, 600)
    height, width = image.pixels.shape[:2]
    assert 1 <= height * width <= most
    if most >= 999:
        assert height * width > 0.45 * most
        assert width / height == pytest.approx(1.5, rel=0.05)
        expected = PILImage.fromarray(pixels).resize((width, height), PILImage.Resampling.BOX)
        # the last row and column may be means of fewer pixels than the others
        assert difference(image.pixels, np.asarray(expected)) < 3


def test_sides_are_limited() -> None:
    stream = io.BytesIO()
    PILImage.new("1", (65_536, 2)).save(stream, "PNG")
    with pytest.raises(ImageTooLarge, match="65535"):
        decode(stream.getvalue())
    assert DEFAULT_LIMITS.max_pixels > 131_072


def animation(width: int, height: int, left: int, top: int, frame: bytes) -> bytes:
    """An animated WebP of one frame, which is itself a WebP."""
    image = PILImage.open(io.BytesIO(frame))
    body = frame[30:] if frame[12:16] == b"VP8X" else frame[12:]
    numbers = (left // 2, top // 2, image.width - 1, image.height - 1, 40)
    head = b"".join(number.to_bytes(3, "little") for number in numbers) + b"\x00"
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X\x0a\x00\x00\x00\x12\x00\x00\x00" + sides + b"ANIM\x06\x00\x00\x00" + bytes(6)
    chunks += b"ANMF" + (len(head) + len(body)).to_bytes(4, "little") + head + body
    return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_frame_lies_on_a_white_canvas(lossless: bool, alpha: bool) -> None:
    pixels = smooth(20, 30)
    if alpha:
        pixels = np.dstack([pixels, np.full((20, 30), 128, np.uint8)])
    frame = saved(pixels, "WEBP", lossless=lossless, exact=True)
    data = animation(64, 48, 10, 6, frame)
    expected = np.full((48, 64, 3), 255, np.uint8)
    expected[6:26, 10:40] = decode(frame).pixels
    np.testing.assert_array_equal(decode(data).pixels, expected)
    with PILImage.open(io.BytesIO(data)) as image:
        opaque = PILImage.new("RGBA", image.size, "white")
        shown = PILImage.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    np.testing.assert_array_equal(expected, np.asarray(shown))


def test_a_frame_beyond_its_canvas_is_refused() -> None:
    frame = saved(smooth(20, 30), "WEBP")
    for left, top in ((36, 0), (0, 30)):
        with pytest.raises(ImageInvalid, match="canvas"):
            decode(animation(64, 48, left, top, frame))


def test_a_webp_of_two_sizes_is_refused() -> None:
    data = bytearray(saved(smooth(20, 30), "WEBP", exif=b"Exif\x00\x00" + orientation_block(1)))
    assert data[12:16] == b"VP8X"
    data[24] += 40
    with pytest.raises(ImageInvalid):
        decode(bytes(data))


@pytest.mark.parametrize(
    "kind", [b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"abCd"]
)
@pytest.mark.parametrize("broken", [False, True])
def test_chunks_that_are_not_the_image_do_not_matter(kind: bytes, broken: bool) -> None:
    pixels = smooth(6, 9)
    plain = saved(pixels, "PNG")
    bomb = b"name\x00\x00" + zlib.compress(bytes(5_000_000))
    extra = chunk(kind, bomb)[:-4] + b"oops" if broken else chunk(kind, bomb)
    np.testing.assert_array_equal(decode(plain[:33] + 30 * extra + plain[33:]).pixels, pixels)


def test_chunks_that_are_the_image_do_matter() -> None:
    data = bytearray(saved(smooth(6, 9), "PNG", "P"))
    at = data.index(b"PLTE")
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 1  # its checksum
    with pytest.raises(ImageInvalid):
        decode(bytes(data))


def test_large_images_of_other_formats_are_reduced_by_powers_of_two() -> None:
    stream = io.BytesIO()
    pixels = np.tile(smooth(100, 100), (45, 41, 1))
    PILImage.fromarray(pixels[..., 0]).save(stream, "BMP")
    made = plan(stream.getvalue(), min_side=100)
    assert made.reduction == 16
    image = decode(stream.getvalue(), min_side=100)
    assert image.pixels.shape == (282, 257, 3)
    whole = pixels[:4496, :4096, 0].reshape(281, 16, 256, 16).mean((1, 3))
    assert np.abs(image.pixels[:281, :256] - whole[..., None]).max() <= 0.51


@pytest.mark.parametrize(
    ("depth", "colour", "most"),
    [(8, 6, 100), (16, 4, 100), (16, 2, 66), (16, 6, 50), (16, 0, 100), (1, 0, 100)],
)
def test_a_png_has_at_most_four_bytes_for_each_pixel_of_the_limit(depth: int, colour: int, most: int) -> None:
    def head(pixels: int) -> bytes:
        return (
            PNG_MAGIC
            + chunk(b"IHDR", struct.pack(">IIBBBBB", pixels, 1, depth, colour, 0, 0, 0))
            + chunk(b"IEND", b"")
        )

    limits = Limits(max_pixels=100)
    assert plan(head(most), limits).header.width == most
    with pytest.raises(ImageTooLarge):
        plan(head(most + 1), limits)


def test_the_shortest_webp() -> None:
    data = bytes.fromhex("2f00000000888808")  # one black pixel, of five codes of one symbol
    file = b"RIFF" + (20).to_bytes(4, "little") + b"WEBPVP8L" + (8).to_bytes(4, "little") + data
    np.testing.assert_array_equal(decode(file).pixels, [[[0, 0, 0]]])


def test_what_is_wrong_with_a_file_is_not_written_anywhere(capfd: pytest.CaptureFixture[str]) -> None:
    files = [saved(smooth(40, 40), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")]
    codings = ("tiff_lzw", "tiff_adobe_deflate", "packbits")
    files.extend(saved(smooth(40, 40), "TIFF", compression=coding) for coding in codings)
    for data in files:
        for cut in (30, len(data) // 2):
            damaged = data[:cut] + bytes(20) + data[cut + 20 :]
            with contextlib.suppress(ImageInvalid, MediaTypeUnsupported):
                decode(damaged)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stray", [10, 60_000, 70_000, 5_000_000])
def test_stray_bytes_between_segments_are_few(stray: int) -> None:
    data = saved(smooth(20, 30), "JPEG")
    at = data.index(b"\xff\xc0")
    for filler in (b"\x00", b"\xff", b"\xff\x00"):
        longer = data[:at] + (filler * stray)[:stray] + data[at:]
        if stray < 65_000:
            np.testing.assert_array_equal(decode(longer).pixels, decode(data).pixels)
        else:
            with pytest.raises(ImageInvalid):
                plan(longer)


def test_the_first_orientation_of_a_png_counts() -> None:
    data = saved(smooth(6, 9), "PNG")
    blocks = b"".join(chunk(b"eXIf", orientation_block(value)) for value in (6, 1, 3))
    assert plan(data[:33] + blocks + data[33:]).header.orientation == 6


@pytest.mark.parametrize("megapixels", [1, 16])
def test_a_lossless_webp_is_not_refused_for_tables_that_no_encoder_makes(megapixels: int) -> None:
    height, width = megapixels * 250, 4000
    noise = np.random.default_rng(0).integers(0, 3, (height, width, 3), np.uint8)
    data = bytes(cv2.imencode(".webp", noise, [cv2.IMWRITE_WEBP_QUALITY, 101])[1])
    assert plan(data).memory <= 512 << 20
