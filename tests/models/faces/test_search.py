"""Where faces are looked for: the geometry against pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.faces import search
from models.faces.result import Face, Faces
from models.image import Image

SIDES = st.integers(1, 60)
TURNS = st.sampled_from([0, 90, 180, 270])
LANDMARKS = ((0.0, 0.0),) * 5


def image_of(height: int, width: int) -> Image:
    """Every pixel tells where it is."""
    rows, columns = np.mgrid[:height, :width]
    return Image(np.stack((rows, columns, rows * 0), -1).astype(np.uint8), width, height)


def face(x1: float, y1: float, x2: float, y2: float, score: float = 0.95) -> Face:
    return Face((x1, y1, x2, y2), score, LANDMARKS)


@given(SIDES, SIDES, TURNS, st.data())
def test_a_region_shows_the_pixels_of_its_place(
    height: int, width: int, turn: int, data: st.DataObject
) -> None:
    image = image_of(height, width)
    everything = search.whole(width, height, turn)
    x1, y1 = data.draw(st.integers(0, everything.x2 - 1)), data.draw(st.integers(0, everything.y2 - 1))
    x2, y2 = (
        data.draw(st.integers(x1 + 1, everything.x2)),
        data.draw(st.integers(y1 + 1, everything.y2)),
    )
    region = dataclasses.replace(everything, x1=x1, y1=y1, x2=x2, y2=y2)
    part = region.cut(image, 1000)
    assert (part.width, part.height) == (x2 - x1, y2 - y1) == part.pixels.shape[1::-1]
    assert np.array_equal(part.pixels, np.rot90(image.pixels, turn // 90)[y1:y2, x1:x2])
    x, y = data.draw(st.integers(0, part.width - 1)), data.draw(st.integers(0, part.height - 1))
    centre = (x + 0.5, y + 0.5)
    found = region.place(Face((x, y, x + 1, y + 1), 0.5, (centre,) * 5))
    row, column, _ = part.pixels[y, x]
    assert found.box == (column, row, column + 1, row + 1)
    assert found.landmarks[0] == (column + 0.5, row + 0.5)


@settings(max_examples=200)
@given(
    st.integers(200, 8000), st.floats(0.3, 3), st.floats(0.01, 0.06), st.floats(0.1, 1), st.integers(1, 90)
)
def test_tiles_cover_the_image_and_show_each_small_face_whole(
    width: int, aspect: float, share: float, size: float, most: int
) -> None:
    height = max(1, round(width / aspect))
    largest = share * max(width, height)  # from this size on one look at the whole image is enough
    wanted = max(size * largest, 1.0)
    views = search.tiles(search.whole(width, height), share, wanted, most)
    assert 1 <= len(views) <= most
    assert all(0 <= view.x1 < view.x2 <= width and 0 <= view.y1 < view.y2 <= height for view in views)
    longest = max(max(view.x2 - view.x1, view.y2 - view.y1) for view in views)
    if len(search.tiles(search.whole(width, height), share, wanted, 10**6)) <= most:
        assert share * longest <= wanted + share
    if wanted < 3 * share * largest:  # tiles that are hardly larger than such faces
        return
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(0, 1, (20, 2)) * (max(0, width - largest), max(0, height - largest)):
        right, bottom = min(width, x + largest), min(height, y + largest)
        assert any(
            view.x1 <= x and view.y1 <= y and right <= view.x2 + 1 and bottom <= view.y2 + 1 for view in views
        )


def test_a_face_that_a_tile_cuts_is_another_tiles() -> None:
    left, right = (
        dataclasses.replace(search.whole(100, 60), x1=x1, x2=x2) for x1, x2 in ((0, 60), (40, 100))
    )
    assert left.cuts(face(50, 10, 60, 20))
    assert not left.cuts(face(0, 10, 10, 20))  # at the image's own edge
    assert right.cuts(face(0, 10, 10, 20))
    assert not right.cuts(face(45, 50, 60, 60))
    whole = Faces(100, 60, (face(70, 20, 90, 40, 0.99),), min_face=12)
    parts = [
        (left, Faces(60, 60, (face(50, 10, 60, 20), face(42, 30, 52, 40, 0.97), face(1, 1, 40, 40)), 8)),
        (right, Faces(60, 60, (face(2, 30, 12, 40, 0.96), face(32, 22, 48, 36)), 7)),
    ]
    found = search.merged(whole, parts, 10)
    # the large one, and of the small one the surer; no part of the large one, nothing too large for a tile
    assert [one.box for one in found.items] == [(70, 20, 90, 40), (42, 30, 52, 40)]
    assert found.min_face == 8
    assert search.merged(whole, parts, 1).items == whole.items


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_sheet_tells_the_direction(turn: int) -> None:
    image = image_of(30, 50)
    sheet = search.sheet(image).pixels
    half, quarter = search.SHEET // 2, turn // 90
    top, left = quarter // 2 * half, quarter % 2 * half
    shown = np.rot90(image.pixels, quarter)
    assert np.array_equal(sheet[top : top + shown.shape[0], left : left + shown.shape[1]], shown)
    sure = face(left + 5, top + 5, left + 20, top + 25, 0.9999)
    nothing, some = Faces(50, 30, ()), Faces(50, 30, (face(1, 1, 9, 9, 0.99),))
    assert search.direction([face(1, 1, 5, 5, 0.9992), sure], some) == turn
    less = dataclasses.replace(sure, score=0.985)
    assert [search.direction([less], upright) for upright in (nothing, some)] == [turn, 0]
    assert search.direction([dataclasses.replace(sure, score=0.97)], nothing) == 0
    assert search.direction([], nothing) == 0


def test_what_is_looked_for_by_default() -> None:
    """2 % of the shorter side; beside a large face, what one look finds."""
    nothing = Faces(4000, 3000, (), min_face=100)
    assert search.wanted(4000, 3000, None) == 60
    assert search.needs_tiles(nothing, None)
    portrait = dataclasses.replace(nothing, items=(face(0, 0, 1000, 1200),))
    crowd = dataclasses.replace(nothing, items=(face(0, 0, 120, 150),))
    assert [search.needs_tiles(one, None) for one in (portrait, crowd)] == [False, True]
    assert search.needs_tiles(portrait, 60)
    assert not search.needs_tiles(crowd, 110)
    assert not search.needs_tiles(Faces(500, 375, (), min_face=13), None)


@pytest.mark.parametrize(
    ("items", "settled"),
    [
        ((), False),
        ((face(0, 0, 80, 60, 0.9995),), True),
        ((face(0, 0, 80, 40, 0.9995),), False),  # the look may have missed others of its size
        ((face(0, 0, 80, 60, 0.99),), False),  # it may be turned
        ((face(0, 0, 80, 60, 0.9995), face(0, 0, 90, 90, 0.99)), False),
        ((face(0, 0, 80, 60, 0.9995), face(0, 0, 20, 20, 0.99)), True),
    ],
)
def test_when_a_look_for_large_faces_is_enough(items: tuple[Face, ...], settled: bool) -> None:
    assert search.settled(Faces(640, 480, items, min_face=50)) is settled


def test_how_far_an_image_may_be_reduced() -> None:
    """The decoder leaves twice as many pixels, and the smallest face at least 24 of them."""
    for min_size in (0, 10, 24, 48, 100, 1000):
        side = search.min_side(4000, 3000, min_size)
        assert 2 * side / 3000 * min_size >= min(24, min_size) or side == 3000
        assert side <= 3000
    assert search.min_side(4000, 3000, 1000) == 320
