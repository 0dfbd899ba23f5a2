"""Options of a catalogue's entries: what a builder does not have is refused by all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.errors import WeightsError
from models.options import NoOptions, check_range, read_options
from models.pipeline import Kind
from models.registry import BUILDERS, build_entry
from models.weights import Entry, File

ROLES = ("weights", "config", "labels", "pnet", "rnet")
KNOWN = {
    "efficientnet_lite": "fraction, size, variant",
    "efficientdet": "iou_threshold, score_threshold, size",
    "lenet5": "none",
    "torchvision_classifier": "arch, weights",
    "yolo": "iou_threshold, score_threshold",
    "darknet": "height, iou_threshold, letter_box, score_threshold, width",
    "torchvision_rcnn": "arch, batch_norm_eps, iou_threshold, score_threshold, size",
    "mtcnn": "candidates, factor, height, min_face, thresholds, tiles, width",
    "dlib_resnet": "threshold",
    "style": "buckets",
    "export": "batch, colour, dtype, features, fill, fraction, interpolation, labels, layout, mean, outputs, "
    "resize, scale, scores, size, std",
}
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("efficientnet_lite", {"variant": "lite9"}),
    ("export", {"size": [224]}),
    ("export", {"mean": [0.5, 0.5]}),
    ("export", {"std": [0.0]}),
    ("export", {"colour": "cmyk"}),
    ("export", {"resize": "squash"}),
    ("export", {"scores": "odds"}),
    ("export", {"batch": -1}),
    ("efficientnet_lite", {"size": "224"}),
    ("efficientnet_lite", {"size": 224.0}),
    ("efficientnet_lite", {"fraction": 0.0}),
    ("efficientnet_lite", {"fraction": 1.5}),
    ("torchvision_classifier", {"arch": 18}),
    ("yolo", {"iou_threshold": -0.1}),
    ("yolo", {"score_threshold": float("nan")}),
    ("darknet", {"letter_box": 1}),
    ("darknet", {"width": True}),
    ("darknet", {"width": 8}),
    ("darknet", {"score_threshold": "high"}),
    ("torchvision_rcnn", {"arch": "fasterrcnn_resnet50_fpn", "batch_norm_eps": -1.0}),
    ("mtcnn", {"thresholds": [0.5, 0.5]}),
    ("mtcnn", {"thresholds": 0.5}),
    ("dlib_resnet", {"threshold": -0.5}),
    ("dlib_resnet", {"threshold": [0.5]}),
    ("style", {"buckets": [[64]]}),
    ("style", {"buckets": [64, 64]}),
]


def attempt(builder: str, options: dict[str, Any], folder: Path) -> None:
    """Builds with files that are not there: the options are checked before anything is read."""
    files = {role: File("file", role, "0" * 64) for role in ROLES}
    entry = Entry("tried", Kind.CLASSIFY, builder, "MIT", files, options)
    build_entry(entry, {role: folder / role for role in ROLES})


def test_every_builder_is_tried() -> None:
    assert KNOWN.keys() == BUILDERS.keys()


@pytest.mark.parametrize("builder", BUILDERS)
def test_an_unknown_option_is_refused_with_those_that_exist(builder: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        attempt(builder, {"hue": "bgr"}, tmp_path)
    assert str(caught.value) == f"model 'tried': unknown options ['hue']; known: {KNOWN[builder]}"


@pytest.mark.parametrize(("builder", "options"), WRONG)
def test_a_wrong_value_is_refused_by_its_name(builder: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"model 'tried': options\.{list(options)[-1]}"):
        attempt(builder, options, tmp_path)


@dataclass(frozen=True, slots=True)
class Some:
    count: int = 1
    share: float = 0.5
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    side: int | None = None

    def __post_init__(self) -> None:
        check_range("share", self.share, 0, 1)


def test_types_are_those_of_the_dataclass() -> None:
    assert read_options(Some, {}) == Some()
    given = {"count": 2, "share": 1, "pair": [1, 2.5], "names": ["a", "b", "c"], "side": 3}
    assert read_options(Some, given) == Some(2, 1, (1, 2.5), ("a", "b", "c"), 3)
    assert read_options(NoOptions, {}) == NoOptions()
    refused = ({"count": 1.0}, {"count": False}, {"pair": [1]}, {"names": [1]}, {"side": "3"}, {"share": 2})
    for wrong in refused:
        with pytest.raises(WeightsError, match=f"options.{next(iter(wrong))}"):
            read_options(Some, wrong)
