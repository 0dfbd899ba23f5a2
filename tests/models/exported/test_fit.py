"""Fitting equals the functions that the models of this project use, and its geometry leads back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.exported.fit import fit, min_side
from models.exported.options import RESIZES, InputOptions
from models.image import Image, center_crop, letterbox, resize
from models.pipeline import Kind
from tests.models.exported.files import Classifier, export, served
from tests.models.image.test_decode import smooth

SIDES = st.integers(4, 90)


def image(height: int, width: int, reduction: int = 1) -> Image:
    return Image(smooth(height, width), width * reduction, height * reduction)


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.integers(8, 60), st.integers(8, 60))
def test_a_letterbox_and_a_stretch_are_the_projects_own(
    rows: int, columns: int, height: int, width: int
) -> None:
    canvas, geometry = fit(image(rows, columns), height, width, InputOptions(resize="letterbox", fill=9))
    wanted, place = letterbox(image(rows, columns), height, width, fill=9)
    np.testing.assert_array_equal(canvas, wanted)
    assert geometry == place
    stretched, _ = fit(image(rows, columns), height, width, InputOptions(resize="stretch"))
    np.testing.assert_array_equal(stretched, resize(smooth(rows, columns), height, width))


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.integers(8, 60), st.floats(0.3, 1))
def test_a_square_crop_is_the_projects_own(rows: int, columns: int, side: int, fraction: float) -> None:
    for interpolation in ("bilinear", "bicubic"):
        options = InputOptions(resize="crop", fraction=fraction, interpolation=interpolation)
        cropped, _ = fit(image(rows, columns), side, side, options)
        np.testing.assert_array_equal(
            cropped, center_crop(image(rows, columns), side, fraction, interpolation=interpolation)
        )


@settings(deadline=None, max_examples=100)
@given(
    SIDES, SIDES, st.integers(8, 60), st.integers(8, 60), st.sampled_from(RESIZES), st.sampled_from([1, 2, 4])
)
def test_the_geometry_leads_back_to_the_original(
    rows: int, columns: int, height: int, width: int, how: str, reduction: int
) -> None:
    """What the network sees is in the original's own proportions, and centred where it should be."""
    canvas, geometry = fit(image(rows, columns, reduction), height, width, InputOptions(resize=how))
    assert canvas.shape == (height, width, 3)
    assert (geometry.width, geometry.height) == (columns * reduction, rows * reduction)
    corners = np.array([[0.0, 0.0], [width, height]])
    (left, top), (right, bottom) = geometry.undo_points(corners).tolist()
    if how == "crop":  # within the image, in the middle but for a decoded pixel or half one of the result
        slack = 1.01 * max(reduction, (right - left) / (2 * width))
        assert left >= -slack
        assert top >= -slack
        assert left + right == pytest.approx(geometry.width, abs=2 * slack)
        assert top + bottom == pytest.approx(geometry.height, abs=2 * slack)
    elif how == "stretch":
        assert (left, top, right, bottom) == pytest.approx((0, 0, geometry.width, geometry.height))
    else:  # the whole image lies on the canvas
        edges = torch.tensor([[0.0, 0.0], [geometry.width, geometry.height]], dtype=torch.float64)
        scale = torch.tensor([geometry.scale_x, geometry.scale_y], dtype=torch.float64)
        placed = edges * scale + torch.tensor([geometry.pad_x, geometry.pad_y], dtype=torch.float64)
        assert placed.min() >= 0
        assert placed[1, 0] <= width + 1e-6
        assert placed[1, 1] <= height + 1e-6
        if how == "letterbox-corner":
            assert (geometry.pad_x, geometry.pad_y) == (0, 0)


def test_a_decoder_may_reduce_as_far_as_the_crop_allows() -> None:
    assert min_side(224, 224, InputOptions(resize="crop", fraction=0.875)) == 256
    assert min_side(480, 640, InputOptions(resize="letterbox", fraction=0.5)) == 640


@pytest.mark.parametrize(
    ("resizing", "region"),
    [("stretch", (0, 0, 80, 40)), ("letterbox", (0, -20, 80, 60)), ("crop", (20, 0, 60, 40))],
)
def test_a_classifier_tells_what_its_network_sees(
    tmp_path: Path, resizing: str, region: tuple[float, ...]
) -> None:
    path = export(Classifier(), tmp_path / "net.pt", (3, 32, 32))
    options = {"labels": [*"abcde"], "scores": "logits", "size": [32, 32], "fraction": 1.0}
    pipeline = served(Kind.CLASSIFY, path, **options, resize=resizing)
    assert pipeline.region(Image(np.zeros((40, 80, 3), np.uint8), 80, 40)) == pytest.approx(region)
