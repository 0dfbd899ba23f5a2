"""The way of a picture through the style pipeline: canvas, style row, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.errors import ImageTooLarge, ParameterInvalid, StyleUnknown
from models.image import Image, resize
from models.pipeline import Card, Kind, eager
from models.style.pipeline import MAX_SIDE, StylePipeline
from models.style.result import StyleOptions, Stylized
from models.style.transfer import ServedStyleNetwork
from tests.models.style.small import STYLES, image, picture, random_network

CARD = Card("styles", Kind.STYLE, "", "")
BUCKETS = [(64, 64), (48, 64), (32, 32)]


class Same(nn.Module):
    """Paints nothing."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch[:, :-1]


def pipeline(module: nn.Module | None = None) -> StylePipeline:
    return StylePipeline(CARD, lambda: module or Same(), STYLES, buckets=BUCKETS)


def paint(pipe: StylePipeline, picture: Image, options: StyleOptions | None = None) -> Stylized:
    item = pipe.preprocess(picture, options)
    [result] = pipe.postprocess(eager(pipe.module, item.inputs[0][None]), [item.context])
    assert isinstance(result, Stylized)
    return result


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64))
def test_a_picture_that_fits_comes_back_pixel_by_pixel(height: int, width: int) -> None:
    picture = image(height, width)
    result = paint(pipeline(), picture)
    assert (result.height, result.width) == (height, width)
    np.testing.assert_array_equal(result.pixels, picture.pixels)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(STYLES), st.floats(0, 1))
def test_any_picture_comes_back_in_its_size(height: int, width: int, style: object, strength: float) -> None:
    assert style in STYLES
    options = StyleOptions(style=STYLES[STYLES.index(style)].name, strength=strength)  # type: ignore[arg-type]
    pipe = pipeline()
    item = pipe.preprocess(image(height, width), options)
    assert item.inputs[0].shape in pipe.shapes
    result = paint(pipe, image(height, width), options)
    pixels = result.render(original=image(height, width).pixels)
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8
    assert result.painted.size <= 64 * 64 * 3  # enlarged only when it is asked for
    height, width = result.render(500, image(height, width).pixels).shape[:2]
    assert 1 <= height * width <= 500


@pytest.mark.parametrize(("height", "width"), [(32, 32), (45, 61), (97, 211), (1, 7)])
def test_strength_blends_with_the_picture(height: int, width: int) -> None:
    pipe, picture = pipeline(ServedStyleNetwork(random_network())), image(height, width)
    none, half, full = (
        paint(pipe, picture, StyleOptions(style="waves", strength=s)).render(original=picture.pixels)
        for s in (0, 0.5, 1)
    )
    np.testing.assert_array_equal(none, picture.pixels)
    assert np.abs(full.astype(int) - none).mean() > 5
    with pytest.raises(ValueError, match="original"):
        paint(pipe, picture, StyleOptions(style="waves", strength=0.5)).render()
    expected = (full.astype(float) + none) / 2
    np.testing.assert_allclose(half, expected, atol=0.51)


def edge(side: int, light: float, dark: float, noise: float = 0) -> np.ndarray:
    """A sharp slanting edge, uint8 [side, side, 3]."""
    down, right = np.mgrid[:side, :side] / side
    grey = np.where(right + 0.3 * down < 0.6, light, dark) + np.random.default_rng(0).normal(
        0, noise or 1e-9, (side, side)
    )
    return np.repeat(grey.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(("light", "dark"), [(200, 60), (90, 160)])
def test_an_enlarged_painting_has_the_edges_of_its_photograph(light: float, dark: float) -> None:
    """Whatever brightness the painting has there: as the photograph, less, or the other way round."""
    photograph, wanted = edge(256, 220, 30), edge(256, light, dark)
    painted = resize(wanted, 64, 64)
    soft = Stylized(256, 256, painted).pixels.astype(int)
    sharp = Stylized(256, 256, painted).render(original=photograph).astype(int)
    assert np.abs(sharp - wanted).mean() < 0.25 * np.abs(soft - wanted).mean()


def test_noise_of_a_photograph_is_not_painted() -> None:
    photograph, painted = edge(256, 128, 128, noise=6), picture(64, 64)
    soft = Stylized(256, 256, painted).pixels.astype(int)
    detailed = Stylized(256, 256, painted).render(original=photograph).astype(int)
    assert np.abs(detailed - soft).mean() < 0.5


@settings(max_examples=30, deadline=None)
@given(*[st.integers(1, 90)] * 4)
def test_a_painting_of_any_size_takes_a_photograph_of_any_size(
    h: int, w: int, height: int, width: int
) -> None:
    original, painted = picture(height, width, 1), picture(h, w)
    kept = original.copy(), painted.copy()
    found = Stylized(width, height, painted).render(original=original)
    assert found.shape == original.shape
    np.testing.assert_array_equal(original, kept[0])
    np.testing.assert_array_equal(painted, kept[1])
    if height * width <= h * w:
        np.testing.assert_array_equal(found, resize(painted, height, width, interpolation="bicubic"))


def test_the_last_row_names_the_style_and_the_canvas_mirrors_the_picture() -> None:
    picture = image(10, 25)
    item = pipeline().preprocess(picture, StyleOptions(style="lines"))
    assert item.inputs[0].shape == (33, 32, 3)
    assert item.inputs[0][32, :4, 0].tolist() == [0, 255, 0, 0]
    assert item.inputs[0][32].sum() == 255
    padded = np.pad(picture.pixels, ((11, 11), (3, 4), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(item.inputs[0][:32], padded)


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((32, 32), (32, 32)),
        ((33, 10), (48, 64)),
        ((48, 64), (48, 64)),
        ((49, 64), (64, 64)),
        ((600, 800), (48, 64)),
        ((800, 600), (64, 64)),
        ((5000, 1), (64, 64)),
    ],
)
def test_the_smallest_canvas_that_keeps_most(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    item = pipeline().preprocess(image(*size))
    assert item.inputs[0].shape == (canvas[0] + 1, canvas[1], 3)


def test_what_cannot_be_painted_is_refused() -> None:
    pipe = pipeline()
    with pytest.raises(StyleUnknown, match="'cubes'; there are: dots, lines, waves"):
        pipe.preprocess(image(8, 8), StyleOptions(style="cubes"))
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(ParameterInvalid) as caught:
            StyleOptions.of({"style": "dots", "strength": strength})
        assert caught.value.parameter == "strength"
    with pytest.raises(ImageTooLarge, match=f"at most {MAX_SIDE}"):
        pipe.preprocess(image(1, MAX_SIDE + 1))
    for buckets in ([], [(30, 32)], [(4, 4)]):
        with pytest.raises(ValueError, match="multiples of 4"):
            StylePipeline(CARD, Same, STYLES, buckets=buckets)


def test_a_mirrored_canvas_hardly_changes_what_is_painted() -> None:
    """The norms' statistics are of the whole canvas; this one shows every pixel of the picture four times."""
    picture, stylist = image(128, 160, seed=3), ServedStyleNetwork(random_network())
    own = StylePipeline(CARD, lambda: stylist, STYLES, buckets=[(128, 160)])
    wide = StylePipeline(CARD, lambda: stylist, STYLES, buckets=[(256, 320)])
    item = wide.preprocess(picture)
    framed = item.inputs[0].copy()
    framed[:256] = 114
    framed[64:192, 80:240] = picture.pixels
    outputs = eager(stylist, np.stack((item.inputs[0], framed)))
    inner = (slice(40, -40), slice(40, -40))  # at the edge the layers mirror their own maps
    exact = paint(own, picture).pixels[inner].astype(int)
    mirrored, grey = (r.pixels[inner] for r in wide.postprocess(outputs, [item.context] * 2))
    assert np.abs(exact - mirrored).mean() < 2
    assert np.abs(exact - grey).mean() > 5


def test_a_batch_keeps_its_pictures_apart() -> None:
    pipe = pipeline()
    pictures = [image(20, 30, 1), image(32, 8, 2), image(300, 300, 3)]
    items = [pipe.preprocess(one) for one in pictures[:2]]
    outputs = eager(pipe.module, np.stack([item.inputs[0] for item in items]))
    results = pipe.postprocess(outputs, [item.context for item in items])
    for result, one in zip(results, pictures, strict=False):
        np.testing.assert_array_equal(result.pixels, one.pixels)
