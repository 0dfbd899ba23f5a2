"""Explanations as images: sizes that can be read, captions, soft edges; and sheets of filters."""

from __future__ import annotations

import numpy as np
import pytest

from models.classification.explain.activations import activations
from models.classification.explain.drawing import CAPTIONED, WIDTH, captioned, drawn, overlay, sheet
from models.classification.explain.maps import HeatMap, WindowMap, shown
from models.image import Image, Pixels
from tests.models.classification.explain.test_cam import digits, picture


def heat_of(grid: np.ndarray, region: tuple[float, float, float, float], image: Image) -> HeatMap:
    return HeatMap(3, "class 3", 0.41, grid.astype(np.float32), region, image.width, image.height)


def plain(height: int, width: int, level: int = 100) -> Image:
    return Image(np.full((height, width, 3), level, np.uint8), width, height)


def test_a_caption_stands_below_and_changes_nothing_above() -> None:
    image = picture(200, 400)
    found = captioned(image.pixels, ["a label: 0.41 (Grad-CAM)", ""])
    np.testing.assert_array_equal(found[:200], image.pixels)
    strip = found[200:]
    assert strip.shape[1] == 400
    assert 15 < strip.shape[0] < 40
    assert (strip == 255).mean() > 0.5
    assert strip.min() < 100
    broken = captioned(image.pixels, ["many words " * 20])
    assert len(broken) > len(found) + 30


def test_a_small_image_is_enlarged_for_its_caption() -> None:
    found = captioned(picture(28, 28).pixels, ["3: 0.99"])
    assert found.shape[1] == CAPTIONED
    assert found.shape[0] > CAPTIONED


def test_heat_fades_at_the_edges_of_a_crop_that_lie_in_the_image() -> None:
    image = plain(400, 600)
    inside = heat_of(np.ones((7, 7)), (100, 0, 500, 400), image).over(400, 600)
    assert inside[:, :100].max() == inside[:, 501:].max() == 0
    edge = inside[200, 100:130]
    assert edge[0] < 0.1
    assert (np.diff(edge) >= 0).all()
    assert edge[-1] == 1
    assert inside[0, 300] == inside[-1, 300] == 1  # the image ends there too
    mixed = overlay(image, heat_of(np.ones((7, 7)), (100, 0, 500, 400), image)).astype(int)
    assert np.abs(np.diff(mixed, axis=1)).max() < 25


def test_what_was_not_found_is_said() -> None:
    image = plain(100, 400)
    nothing = heat_of(np.zeros((7, 7)), (0, 0, 400, 100), image)
    assert "class 3" in nothing.note
    assert len(drawn(image, nothing)) > len(drawn(image, heat_of(np.ones((7, 7)), (0, 0, 400, 100), image)))
    scores = np.full((2, 3), 0.05, np.float32)
    windows = WindowMap(3, "class 3", scores, (10.0, 10.0), (50.0, 50.0), (), 0.2)
    assert windows.note == "no window has a score of 0.20 or more; the highest is 0.05"
    assert windows.score == pytest.approx(0.05)


def test_small_scores_are_no_zeros() -> None:
    assert [shown(score) for score in (0.4078, 1.0, 0.01, 0.0004)] == ["0.41", "1.00", "0.01", "0.0004"]


@pytest.mark.parametrize("top", [1, 2, 16, 64])
def test_activations_are_a_grid_of_at_least_the_width(top: int) -> None:
    found = drawn(picture(), activations(digits(), picture(), layer="features.3", top=top))
    assert found.shape[1] >= WIDTH
    assert found.std() > 20


def test_tiles_stand_where_their_number_says() -> None:
    tiles: list[Pixels] = [np.full((10, 20, 3), level, np.uint8) for level in (10, 20, 30)]
    found = sheet(tiles, ["", "", ""], 2)
    assert found.shape == (2 * 14 + 4, 2 * 24 + 4, 3)
    assert (found[4:14, 28:48] == 20).all()
    assert (found[18:28, 4:24] == 30).all()
