"""Parameters of requests: types, bounds, names; the same for texts of a query and values of JSON."""

from __future__ import annotations

from typing import Any

import pytest

from models.classification.result import ClassifyOptions
from models.detection.result import DetectOptions
from models.errors import ParameterInvalid
from models.faces.result import FaceOptions
from models.style.result import StyleOptions


def test_numbers_may_come_as_text_and_whole_ones_as_fractions() -> None:
    found = DetectOptions.of({"score_threshold": "0.5", "iou_threshold": 1, "max_detections": "7"})
    assert found == DetectOptions(score_threshold=0.5, iou_threshold=1.0, max_detections=7)
    assert ClassifyOptions.of({"top_k": 2.0}).top_k == 2


@pytest.mark.parametrize(
    "names",
    ["dog, traffic light", ["dog", "traffic light"], ["dog,traffic light"], ("dog", " traffic light")],
)
def test_names_come_separated_by_commas_or_one_by_one(names: object) -> None:
    assert DetectOptions.of({"classes": names}).classes == ("dog", "traffic light")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ClassifyOptions, {"top_k": 0}),
        (ClassifyOptions, {"top_k": True}),
        (ClassifyOptions, {"top_k": "x"}),
        (ClassifyOptions, {"top_k": "1.5"}),
        (ClassifyOptions, {"top_k": 1.5}),
        (ClassifyOptions, {"top_k": float("nan")}),
        (ClassifyOptions, {"top_k": []}),
        (DetectOptions, {"score_threshold": float("inf")}),
        (DetectOptions, {"score_threshold": True}),
        (DetectOptions, {"score_threshold": 10**400}),
        (DetectOptions, {"score_treshold": 0.5}),
        (DetectOptions, {"classes": 1}),
        (FaceOptions, {"min_size": -1}),
        (FaceOptions, {"min_size": float("inf")}),
        (FaceOptions, {"max_faces": 10**400}),
        (StyleOptions, {"strength": 1.01}),
        (StyleOptions, {"style": 1}),
    ],
)
def test_what_does_not_fit_is_named(kind: Any, given: dict[str, object]) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        kind.of(given)
    assert [caught.value.parameter] == list(given)
    assert len(str(caught.value)) < 300
