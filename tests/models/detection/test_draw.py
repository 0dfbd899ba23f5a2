"""Annotated pictures: what is drawn, where, and that it can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detection import draw as drawing
from models.detection.draw import Mark, colour_of, draw, draw_detections, draw_faces, luminance
from models.detection.result import Detection, Detections
from models.faces.result import Face, Faces

GREY = 120
COORDINATES = st.floats(-50, 400, allow_nan=False)


def blank(height: int, width: int) -> drawing.Pixels:
    return np.full((height, width, 3), GREY, np.uint8)


def changed(pixels: drawing.Pixels) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is no longer grey."""
    rows, columns = np.nonzero((pixels != GREY).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def detections(width: int, height: int, *boxes: tuple[float, float, float, float]) -> Detections:
    items = tuple(Detection(index, "dog", 0.9, box) for index, box in enumerate(boxes))
    return Detections(width, height, items)


@pytest.mark.parametrize("scale", [1, 4, 20])
def test_the_frame_is_where_the_box_is_and_its_inside_stays(scale: int) -> None:
    height, width = 60 * scale, 80 * scale
    box = (20.0 * scale, 20.0 * scale, 60.0 * scale, 50.0 * scale)
    picture = draw(blank(height, width), [Mark(box, (), (255, 0, 0))])
    assert changed(picture) == tuple(map(int, box))
    inner = picture[25 * scale : 45 * scale, 25 * scale : 55 * scale]
    assert (inner == GREY).all()
    assert (picture == (255, 0, 0)).all(axis=2).sum() > 100 * scale  # and it is coloured


def test_nothing_found_leaves_the_picture_as_it_was() -> None:
    picture = blank(30, 40)
    answer = draw_detections(picture, Detections(40, 30, ()))
    assert np.array_equal(answer, picture)
    assert answer is not picture


def test_boxes_are_of_the_original_when_the_pixels_are_fewer() -> None:
    half = draw(blank(300, 400), [Mark((100, 100, 200, 150), ("dog 0.90", "dog"), colour_of(0))])
    same = draw_detections(blank(300, 400), detections(800, 600, (200, 200, 400, 300)))
    assert np.array_equal(half, same)


def test_landmarks_are_drawn_and_those_outside_left_out() -> None:
    points = ((100.0, 100.0), (200.0, 100.0), (150.0, 140.0), (-30.0, 180.0), (200.0, 9000.0))
    picture = draw_faces(blank(300, 400), Faces(800, 600, (Face((120, 120, 500, 500), 0.99, points),)))
    colour = picture[50, 50].tolist()
    assert colour != [GREY] * 3
    for x, y in points[:3]:
        assert picture[int(y) // 2, int(x) // 2].tolist() == colour
    assert (picture[:, :10] == GREY).all()


def test_letters_and_lines_grow_with_the_picture() -> None:
    heights = []
    for side in (64, 256, 1024, 2000):
        box = (side * 0.4, side * 0.5, side * 0.7, side * 0.8)
        left, top, _, bottom = changed(draw_detections(blank(side, side), detections(side, side, box)))
        assert left == round(box[0])
        assert bottom == round(box[3])
        heights.append(round(box[1]) - top)
    assert heights[0] >= 8  # seven pixels are the least that can be read
    assert heights == sorted(heights)
    assert heights[3] > 5 * heights[0]


def test_text_at_the_edges_is_moved_into_the_picture() -> None:
    """The plate of a box in any corner is whole: as many pixels as in the middle."""

    def plate(x: float, y: float) -> int:
        colour = colour_of(0)
        framed = draw(blank(200, 200), [Mark((x, y, x + 20, y + 20), ("bicycle 0.99",), colour)])
        bare = draw(blank(200, 200), [Mark((x, y, x + 20, y + 20), (), colour)])
        return int((framed != bare).any(axis=2).sum())

    middle = plate(90, 90)
    assert middle > 400
    for x, y in ((0, 0), (180, 0), (0, 180), (180, 180)):
        assert plate(x, y) > 0.9 * middle


def test_texts_do_not_cover_each_other() -> None:
    """Two boxes in one place: taking either text away changes only pixels of its own plate."""
    box = (60.0, 60.0, 140.0, 140.0)
    first, second = Mark(box, ("bicycle 0.99",), (255, 0, 0)), Mark(box, ("person 0.98",), (0, 0, 255))
    silent = draw(blank(200, 200), [Mark(box, (), first.colour), Mark(box, (), second.colour)])
    both = (draw(blank(200, 200), [first, second]) != silent).any(axis=2)
    one = (draw(blank(200, 200), [first, Mark(box, (), second.colour)]) != silent).any(axis=2)
    assert (both & one).sum() == one.sum()  # the first is whole
    assert both.sum() > 1.5 * one.sum()  # and the second beside it


def test_a_picture_too_small_for_text_has_its_frame() -> None:
    picture = draw_detections(blank(6, 6), detections(6, 6, (1, 1, 5, 5)))
    assert changed(picture) == (1, 1, 5, 5)


def test_near_classes_have_different_colours_and_text_has_contrast() -> None:
    colours = [colour_of(index) for index in range(1000)]
    assert all(len(set(colours[index : index + 12])) == 12 for index in range(900))
    assert colours == [colour_of(index) for index in range(1000)]
    dark, light = luminance((16, 16, 16)), 1.0
    for value in map(luminance, colours):
        ink = dark if value > 0.179 else light
        assert (max(ink, value) + 0.05) / (min(ink, value) + 0.05) >= 4  # WCAG asks 3 of large letters


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    boxes=st.lists(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES), max_size=8),
    text=st.text(max_size=30),
)
def test_anything_can_be_drawn_anywhere(
    size: tuple[int, int], boxes: list[tuple[float, float, float, float]], text: str
) -> None:
    picture = blank(*size)
    marks = [Mark(box, (text, "dog"), colour_of(i), (box[:2], box[2:])) for i, box in enumerate(boxes)]
    answer = draw(picture, marks)
    assert answer.shape == picture.shape
    assert answer.dtype == np.uint8
    assert (picture == GREY).all()


@settings(max_examples=200, deadline=None)
@given(
    box=st.tuples(st.integers(0, 99), st.integers(0, 79), st.integers(1, 40), st.integers(1, 40)),
    width=st.integers(1, 130),
    height=st.integers(1, 100),
    taken=st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(61, 100)] * 2), max_size=3),
)
def test_plates_lie_within_the_picture_and_apart(
    box: tuple[int, int, int, int], width: int, height: int, taken: list[drawing.Rectangle]
) -> None:
    left, top, right, bottom = box[0], box[1], min(100, box[0] + box[2]), min(80, box[1] + box[3])
    plates = np.array(taken, np.int32).reshape(-1, 4)
    plate = drawing._place((left, top, right, bottom), width, height, 2, (100, 80), plates)
    if plate is None:
        assert taken or width > 100 or height > 80
        return
    assert plate[0] >= 0
    assert plate[1] >= 0
    assert (plate[2] - plate[0], plate[3] - plate[1]) == (width, height)
    assert plate[2] <= 100
    assert plate[3] <= 80
    for other in taken:
        apart = plate[2] <= other[0] or other[2] <= plate[0] or plate[3] <= other[1] or other[3] <= plate[1]
        assert apart


@pytest.mark.parametrize("kind", ["everywhere", "in one place"])
def test_a_thousand_texts_are_measured_a_bounded_number_of_times(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0
    place = drawing._place

    def counted(*arguments: Any) -> drawing.Rectangle | None:
        nonlocal tries
        tries += 1
        return place(*arguments)

    monkeypatch.setattr(drawing, "_place", counted)
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 900, (1_000, 2)) if kind == "everywhere" else np.full((1_000, 2), 400.0)
    boxes = [(x, y, x + 90, y + 90) for x, y in corners.tolist()]
    answer = draw_detections(blank(1_000, 1_000), detections(1_000, 1_000, *boxes))
    assert tries < 2_100
    alone = draw_detections(blank(1_000, 1_000), detections(1_000, 1_000, boxes[0]))
    assert (answer != GREY).sum() > (alone != GREY).sum()


def test_lines_of_many_boxes_are_thinner() -> None:
    """A thousand frames around the largest image would else be a billion pixels."""
    side = 1_000
    marks = [Mark((0, 0, side, side), (), (255, 0, 0))] * 1_000
    one = draw(blank(side, side), marks[:1])
    many = draw(blank(side, side), marks * 20)
    assert 0 < (many != GREY).any(axis=2).sum() < (one != GREY).any(axis=2).sum()
