"""Geometry: resizing, letterbox, centre crop and the way back to the original's pixels."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from models.image import Image, Interpolation, Pixels, center_crop, decode, letterbox, resize
from tests.models.image.test_decode import saved, smooth

SIDES = st.integers(1, 300)


def whole(pixels: Pixels) -> Image:
    return Image(pixels, pixels.shape[1], pixels.shape[0])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(224, 224), (600, 90), (7, 1), (150, 200)])
def test_resize_agrees_with_pil(mode: str, size: tuple[int, int]) -> None:
    # bicubic results beyond a byte's range are cut off after each pass, and which one is first differs
    low, high = (0, 256) if mode == "bilinear" else (64, 192)
    pixels = np.random.default_rng(0).integers(low, high, (150, 200, 3), np.uint8)
    filters = {"bilinear": PILImage.Resampling.BILINEAR, "bicubic": PILImage.Resampling.BICUBIC}
    expected = np.asarray(PILImage.fromarray(pixels).resize(size[::-1], filters[mode]))
    resized = resize(pixels, *size, interpolation=mode)  # type: ignore[arg-type]
    assert resized.shape == (*size, 3)
    assert resized.flags.c_contiguous
    assert np.abs(resized.astype(int) - expected).max() <= (1 if mode == "bilinear" else 2)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(150, 200), (1700, 900)])  # the larger one in bands
def test_resize_is_torchs_antialiased_interpolation(mode: Interpolation, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # this layout has torch's kernel of bytes
    for height, width in ((224, 224), (1900, 40), (448, 300), (100, 200)):
        expected = F.interpolate(batch, (height, width), mode=mode, antialias=True)
        resized = resize(pixels, height, width, interpolation=mode)
        differences = np.abs(resized.astype(int) - expected[0].permute(1, 2, 0).numpy())
        assert differences.max() <= 1
        assert (differences > 0).mean() < 1e-3


def test_resize_takes_views_and_arrays_that_may_not_be_written() -> None:
    pixels = smooth(40, 50)
    pixels.setflags(write=False)
    np.testing.assert_array_equal(resize(pixels[::-1], 20, 25), resize(pixels[::-1].copy(), 20, 25))


@settings(max_examples=50, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 255))
def test_a_flat_picture_stays_flat(
    height: int, width: int, to_height: int, to_width: int, level: int
) -> None:
    resized = resize(np.full((height, width, 3), level, np.uint8), to_height, to_width)
    assert np.abs(resized.astype(int) - level).max() <= 1


def test_extreme_shrinking_keeps_the_mean() -> None:
    pixels = np.zeros((8000, 40, 3), np.uint8)
    pixels[::2] = 255
    assert np.abs(resize(pixels, 3, 5).astype(int) - 127).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (40, 8000), (8000, 40), (1, 5000), (416, 416), (416, 100)])
def test_letterbox_holds_the_whole_picture_in_the_middle(size: tuple[int, int]) -> None:
    canvas, geometry = letterbox(whole(np.full((*size, 3), 7, np.uint8)), 320, 416)
    assert canvas.shape == (320, 416, 3)
    rows, columns = np.nonzero((canvas != 114).any(-1))
    inner_height, inner_width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert geometry.pad_y == rows.min() == (320 - inner_height) // 2
    assert geometry.pad_x == columns.min() == (416 - inner_width) // 2
    assert geometry.scale_y == pytest.approx(inner_height / size[0])
    assert geometry.scale_x == pytest.approx(inner_width / size[1])
    assert (canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 7).all()
    assert (geometry.width, geometry.height) == size[::-1]
    if min(size) > 10:
        assert inner_height == 320 or inner_width == 416


def test_letterbox_fill() -> None:
    canvas, _ = letterbox(whole(np.zeros((10, 20, 3), np.uint8)), 40, 40, fill=3)
    assert (canvas[0] == 3).all()


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, st.sampled_from([(320, 320), (320, 416), (64, 512)]), st.data())
def test_boxes_come_back(height: int, width: int, canvas: tuple[int, int], data: st.DataObject) -> None:
    _, geometry = letterbox(whole(np.zeros((height, width, 3), np.uint8)), *canvas)
    share = st.floats(0, 1, width=32)
    x = sorted(data.draw(share) * width for _ in range(2))
    y = sorted(data.draw(share) * height for _ in range(2))
    original = np.array([[x[0], y[0], x[1], y[1]]], np.float32)
    scale = np.array([geometry.scale_x, geometry.scale_y] * 2, np.float32)
    pad = np.array([geometry.pad_x, geometry.pad_y] * 2, np.float32)
    back = geometry.undo_boxes(original * scale + pad)
    np.testing.assert_allclose(back, original, atol=0.02, rtol=1e-4)
    corners = geometry.undo_points((original * scale + pad).reshape(1, 2, 2))
    np.testing.assert_allclose(corners.reshape(1, 4), original, atol=0.02, rtol=1e-4)


def test_boxes_are_clipped_and_points_are_not() -> None:
    _, geometry = letterbox(whole(np.zeros((100, 200, 3), np.uint8)), 400, 400)
    assert geometry.undo_boxes(np.array([[-50.0, 0.0, 500.0, 400.0]])).tolist() == [[0, 0, 200, 100]]
    assert geometry.undo_points(np.array([[-2.0, 100.0]])).tolist() == [[-1.0, 0.0]]
    assert geometry.undo_boxes(np.zeros((0, 4))).shape == (0, 4)
    assert geometry.undo_points(np.zeros((3, 5, 2))).shape == (3, 5, 2)


def test_a_reduced_picture_has_the_geometry_of_its_original() -> None:
    data = saved(smooth(401, 641), "JPEG", quality=95)
    full, reduced = decode(data), decode(data, min_side=100)
    assert reduced.pixels.shape[0] < full.pixels.shape[0]
    (canvas_a, a), (canvas_b, b) = letterbox(full, 96, 96), letterbox(reduced, 96, 96)
    assert a == b
    assert np.abs(canvas_a.astype(int) - canvas_b).mean() < 2


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (224, 224), (30, 4000), (1, 1)])
@pytest.mark.parametrize("fraction", [0.875, 1.0, 0.5])
def test_center_crop_is_the_middle(size: tuple[int, int], fraction: float) -> None:
    pixels = smooth(*size)
    cropped = center_crop(whole(pixels), 64, fraction)
    assert cropped.shape == (64, 64, 3)
    side = max(1, round(min(size) * fraction))
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    part = PILImage.fromarray(pixels).crop((left, top, left + side, top + side))
    expected = np.asarray(part.resize((64, 64), PILImage.Resampling.BILINEAR))
    assert np.abs(cropped.astype(int) - expected).max() <= 1


def test_center_crop_is_close_to_torchvisions_presets() -> None:
    from torchvision.transforms.v2 import functional as transforms

    pixels = smooth(375, 500)
    picture = PILImage.open(io.BytesIO(saved(pixels, "PNG")))
    expected = transforms.center_crop(transforms.resize(picture, [256]), [224])
    cropped = center_crop(whole(pixels), 224, 224 / 256)
    assert np.abs(cropped.astype(int) - np.asarray(expected)).max() <= 2


def brightness(pixels: Pixels) -> Pixels:
    """A JPEG's worth of detail that all decodings keep: what differs then is where the crop lies."""
    return cv2.GaussianBlur(pixels, (0, 0), 8)


@pytest.mark.parametrize("size", [(1024, 1500), (1153, 1027), (2049, 2300), (4100, 4097)])
@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_the_crop_is_the_same_part_of_a_reduced_image(size: tuple[int, int], fraction: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    data = saved(cv2.normalize(brightness(noise), None, 0, 255, cv2.NORM_MINMAX), "JPEG", quality=95)
    full = center_crop(decode(data), 224, fraction)
    for ways in ({"min_side": 256}, {"min_side": 512}, {"max_pixels": 1_000_000}):
        reduced = decode(data, **ways)
        difference = np.abs(center_crop(reduced, 224, fraction).astype(int) - full).mean()
        assert difference < (3 if "max_pixels" in ways else 1.2), (ways, reduced.pixels.shape)
