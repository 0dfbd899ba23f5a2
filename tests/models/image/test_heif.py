"""AVIF and HEIC: what is read of their boxes, and what a file of the image alone gives."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pi_heif
import pytest
from PIL import Image as PILImage

from loadtests.imagefiles import heif_grid
from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported
from models.headers.header import Format, HeifImage
from models.headers.heif import without_metadata
from models.headers.reader import read_header
from models.image import Limits, decode, plan
from tests.models.image.test_decode import Pixels, orientation_block, saved, smooth
from tests.paths import ROOT

HEIC = ROOT / "loadtests" / "fuzz" / "heic"
FILES = sorted(HEIC.glob("*.heic"))


def shown(data: bytes) -> Pixels:
    """What pi-heif gives of the whole file, over white."""
    image = pi_heif.open_heif(io.BytesIO(data)).to_pillow().convert("RGBA")
    white = PILImage.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_heic_is_what_pi_heif_reads(path: Path) -> None:
    image = decode(path.read_bytes())
    np.testing.assert_array_equal(image.pixels, shown(path.read_bytes()))
    assert image.pixels.flags.writeable
    assert image.frames == 1


def test_a_turned_heic_is_turned_by_its_own_property() -> None:
    data = (HEIC / "turned.heic").read_bytes()
    assert plan(data).header.orientation == 6
    assert decode(data).pixels.shape == (88, 64, 3)


def test_a_clean_aperture_is_cut_out() -> None:
    header = read_header((HEIC / "odd.heic").read_bytes())
    assert (header.width, header.height) == (61, 45)
    assert isinstance(header.layout, HeifImage)
    assert (header.layout.width, header.layout.height) == (64, 64)


@pytest.mark.parametrize("kind", ["avif", "heic"])
@pytest.mark.parametrize(
    ("rows", "columns", "width", "height"), [(1, 1, 88, 64), (2, 3, 250, 120), (3, 1, 88, 180)]
)
def test_a_grid_is_its_tiles_side_by_side(
    kind: str, rows: int, columns: int, width: int, height: int
) -> None:
    tile = (HEIC / "420.heic").read_bytes() if kind == "heic" else saved(smooth(64, 88), "AVIF", quality=80)
    data = heif_grid(tile, rows, columns, width, height)
    whole = np.tile(decode(tile).pixels, (rows, columns, 1))[:height, :width]
    image = decode(data)
    assert plan(data).header.format is (Format.HEIC if kind == "heic" else Format.AVIF)
    assert np.abs(image.pixels.astype(int) - whole).max() <= (
        0 if kind == "heic" else 80
    )  # chroma at the seams
    assert np.abs(image.pixels.astype(int) - whole).mean() < 1
    expected = shown(data) if kind == "heic" else np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(image.pixels, expected)


@pytest.mark.parametrize(
    ("rows", "columns", "width", "height"), [(2, 2, 88, 64), (2, 2, 500, 120), (1, 1, 10, 100)]
)
def test_a_grid_that_makes_no_sense_is_refused(rows: int, columns: int, width: int, height: int) -> None:
    with pytest.raises(ImageInvalid, match="grid"):
        plan(heif_grid((HEIC / "420.heic").read_bytes(), rows, columns, width, height))


def test_a_grid_of_too_many_tiles_is_refused() -> None:
    tile = (HEIC / "420.heic").read_bytes()
    with pytest.raises(ImageInvalid, match="tiles"):
        plan(heif_grid(tile, 40, 30, 88 * 30, 64 * 40))


def test_a_second_image_and_metadata_are_not_passed_on() -> None:
    data = (HEIC / "two.heic").read_bytes()
    layout = read_header(data).layout
    assert isinstance(layout, HeifImage)
    alone = without_metadata(data, layout)
    assert len(pi_heif.open_heif(io.BytesIO(alone))) == 1
    assert len(alone) < len(data)
    plain = saved(smooth(64, 88), "AVIF", exif=orientation_block(1) + bytes(60_000), xmp=bytes(30_000))
    layout = read_header(plain).layout
    assert isinstance(layout, HeifImage)
    assert len(without_metadata(plain, layout)) < len(plain) - 20_000


@pytest.mark.parametrize("name", ["420", "444", "10bit"])
def test_the_parameters_box_says_what_the_parameters_say(name: str) -> None:
    """libheif reads the one, libde265 the others; where they differed, memory was corrupted."""
    data = bytearray((HEIC / f"{name}.heic").read_bytes())
    expected = decode(bytes(data)).pixels
    at = data.index(b"hvcC") + 4
    for place in (16, 17, 18):
        data[at + place] ^= 3
    np.testing.assert_array_equal(decode(bytes(data)).pixels, expected)


@pytest.mark.parametrize("kind", ["avif", "heic"])
def test_a_size_that_the_image_does_not_have_is_refused(kind: str) -> None:
    data = bytearray((HEIC / "420.heic").read_bytes() if kind == "heic" else saved(smooth(64, 88), "AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 8_800, 64)
    with pytest.raises(ImageInvalid, match="two ways"):
        plan(bytes(data))


def test_an_avif_of_many_hidden_frames_is_refused_by_what_they_take() -> None:
    data = saved(smooth(64, 88), "AVIF", quality=50)
    layout = read_header(data).layout
    assert isinstance(layout, HeifImage)
    (begin, end), frame = layout.image.data[0], layout.image.data[-1]
    once = plan(data).cpu_seconds
    pieces = (layout.image.data[0], *[frame] * 200)
    from dataclasses import replace

    many = without_metadata(data, replace(layout, image=replace(layout.image, data=pieces)))
    assert end > begin
    assert plan(many).cpu_seconds > 50 * once
    with pytest.raises(ImageTooLarge, match="too long"):
        plan(many, Limits(max_pixels=10_000))


def test_slices_cost_a_picture_each() -> None:
    data = (HEIC / "420.heic").read_bytes()
    layout = read_header(data).layout
    assert isinstance(layout, HeifImage)
    assert layout.decoded == 88 * 64


def test_large_avif_and_heic_are_refused_by_time() -> None:
    tile = (HEIC / "420.heic").read_bytes()
    layout = read_header(tile).layout
    assert isinstance(layout, HeifImage)
    with pytest.raises(ImageTooLarge, match="HEIC of 1760 by 1280 pixels"):
        plan(heif_grid(tile, 20, 20, 1_760, 1_280), Limits(max_pixels=2_300_000))


@pytest.mark.parametrize("kind", [b"avc1", b"j2k1", b"iden", b"unci"])
def test_other_codings_are_refused_by_their_names(kind: bytes) -> None:
    data = (HEIC / "420.heic").read_bytes().replace(b"hvc1", kind)
    with pytest.raises(MediaTypeUnsupported, match=kind.decode()):
        plan(data)


def test_decoding_leaves_no_threads_behind() -> None:
    tasks = Path("/proc/self/task")
    for data in (
        saved(smooth(640, 880), "AVIF"),
        heif_grid((HEIC / "420.heic").read_bytes(), 4, 4, 352, 256),
    ):
        before = len(list(tasks.iterdir()))
        decode(data)
        assert len(list(tasks.iterdir())) <= before
