"""Alignment against Umeyama's method and against pictures whose every value is known."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.faces.align import chips, cut_faces, inverse, similarity
from models.faces.result import Face, Landmarks
from models.faces.template import TEMPLATE, template
from models.image import Image

Floats = NDArray[np.floating[Any]]


def targets() -> Floats:
    return np.array(TEMPLATE.landmarks)


ANGLES = st.floats(-math.pi, math.pi)


def umeyama(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equations 34 to 43 of the paper, with its singular value decomposition."""
    mean_x, mean_y = source.mean(0), target.mean(0)
    covariance = (target - mean_y).T @ (source - mean_x) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / ((source - mean_x) ** 2).sum(1).mean()
    return np.hstack([scale * rotation, (mean_y - scale * rotation @ mean_x)[:, None]])


def turn(angle: float, scale: float, x: float, y: float) -> Floats:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[[cos, -sin, x], [sin, cos, y]]])


def apply(transforms: Floats, points: Floats) -> Floats:
    return points @ transforms[:, :, :2].swapaxes(1, 2) + transforms[:, None, :, 2]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_it_is_umeyamas_transform(seed: int, faces: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 500, (faces, 5, 2))
    goal = targets()
    found = similarity(points, goal)
    for face in range(faces):
        expected = umeyama(points[face], goal)
        np.testing.assert_allclose(found[face], expected, atol=1e-8)


@settings(deadline=None)
@given(ANGLES, st.floats(0.05, 20), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_it_finds_a_known_transform_and_its_inverse(angle: float, scale: float, x: float, y: float) -> None:
    known = turn(angle, scale, x, y)
    source = targets()[None]
    found = similarity(source, apply(known, source))
    np.testing.assert_allclose(found, known, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(apply(inverse(found), apply(known, source)), source, atol=1e-6, rtol=1e-6)


def test_the_targets_lie_where_dlib_puts_them() -> None:
    points = targets()
    assert points.shape == (5, 2)
    # dlib: (padding + mean) / (2 * padding + 1) * size, counted from the centre of the first pixel
    np.testing.assert_allclose(
        points[3] - 0.5, np.array([(0.25 + 0.254149), (0.25 + 0.780233)]) * 100, rtol=1e-5
    )
    assert points[0, 0] < points[2, 0] < points[1, 0]
    assert points[0, 1] < points[2, 1] < points[3, 1]


@cache
def slope(seed: int) -> tuple[Floats, Floats]:
    """How much the three channels rise along x and y, [3, 2], and a picture of 600 x 600 that does."""
    rise = np.random.default_rng(seed).uniform(-0.12, 0.12, (3, 2))
    y, x = np.mgrid[0:600, 0:600] - 299.5
    exact = 127 + rise[:, 0, None, None] * x + rise[:, 1, None, None] * y
    return rise, exact.round().transpose(1, 2, 0).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(ANGLES, st.floats(0.2, 4.5), st.integers(0, 2))
def test_a_slope_stays_the_slope_it_was(angle: float, scale: float, seed: int) -> None:
    """A picture that rises evenly is the same at any size and turn, so every chip pixel can be computed."""
    rise, pixels = slope(seed)
    to_picture = turn(angle, scale, 0, 0)
    to_picture[:, :, 2] = 300 - (to_picture[:, :, :2] @ np.full(2, 75.0))
    chip = chips(pixels, apply(to_picture, targets()[None]), TEMPLATE)[0].astype(np.float64)
    y, x = np.mgrid[0:150, 0:150] + 0.5
    place = apply(to_picture, np.stack((x, y), -1).reshape(1, -1, 2))[0] - 300
    expected = 127 + place @ rise.T
    inside = (np.abs(place) < 300 - 3 * scale - 3).all(1)  # nearer to the edge, it fades to black
    error = np.abs(chip.reshape(-1, 3) - expected)[inside]
    assert error.max() <= 1.01  # two roundings to a byte
    assert error.mean() < 0.5


def test_a_fine_pattern_becomes_grey_and_not_an_alias_of_itself() -> None:
    pixels = np.zeros((1600, 1600, 3), np.uint8)
    pixels[::2, ::2] = 255
    pixels[1::2, 1::2] = 255
    for scale in (3.0, 4.7, 6.3, 9.4):
        chip = chips(pixels, targets()[None] * scale + 20, TEMPLATE)[0, 8:-8, 8:-8]
        assert abs(chip.mean() - 127.5) < 3
        assert chip.std() < 20


def test_what_is_outside_is_black_and_faces_do_not_touch_each_other() -> None:
    pixels = np.full((200, 300, 3), 200, np.uint8)
    points = np.stack((targets(), targets() - 75, targets() + 1000, targets() * 0.5 + 40))
    together = chips(pixels, points, TEMPLATE)
    assert (together[0] == 200).all()
    assert (together[1, :74, :74] == 0).all()
    assert (together[1, 76:, 76:] == 200).all()
    assert (together[2] == 0).all()
    for index in range(4):
        np.testing.assert_array_equal(together[index], chips(pixels, points[index : index + 1], TEMPLATE)[0])


@pytest.mark.parametrize("shape", [(1, 1), (40, 3000), (3, 3)])
def test_odd_pictures_and_landmarks_do_not_break_it(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 90, np.uint8)
    points = np.stack((np.zeros((5, 2)), targets() * 30, targets() * 0.01, targets()))
    cut = chips(pixels, points, TEMPLATE)
    assert cut.shape == (4, 150, 150, 3)
    assert cut.dtype == np.uint8
    assert chips(pixels, np.zeros((0, 5, 2)), TEMPLATE).shape == (0, 150, 150, 3)


def test_a_reduced_picture_gives_nearly_the_same_chips() -> None:
    rows, columns = np.mgrid[0:800, 0:600]
    waves = 127 + 60 * np.sin(columns / 40) + 60 * np.cos(rows / 50)
    full = np.repeat(waves[..., None], 3, 2)
    half = full.reshape(400, 2, 300, 2, 3).mean((1, 3))
    points = cast(Landmarks, tuple((x, y) for x, y in (targets() * 3 + 60).tolist()))
    face = Face((60.0, 60.0, 510.0, 510.0), 1.0, points)
    one = cut_faces(Image(full.astype(np.uint8), 600, 800), [face], TEMPLATE)[0]
    other = cut_faces(Image(half.astype(np.uint8), 600, 800), [face], TEMPLATE)[0]
    assert (one.width, one.height) == (150, 150)
    assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 3
    assert cut_faces(Image(full.astype(np.uint8), 600, 800), [], TEMPLATE) == []


@pytest.mark.parametrize("side", [96, 112])
def test_another_template_cuts_crops_of_its_own_size_and_place(side: int) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
    other = template(side, padding=0.1)
    # landmarks that lie where the template has them: the crop is the image itself
    np.testing.assert_array_equal(chips(pixels, np.array(other.landmarks)[None], other)[0], pixels)
    points = cast(Landmarks, other.landmarks)
    (cut,) = cut_faces(Image(pixels, side, side), [Face((0, 0, side, side), 1.0, points)], other)
    assert (cut.width, cut.height) == (side, side)
