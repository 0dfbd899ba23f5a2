"""The catalogue of a detector's sizes."""

from __future__ import annotations

from pathlib import Path

from loadtests.detectors import SIZED, detectors, sized
from models import registry
from models.weights import Catalogue, Store, standard_catalogue


def test_each_size_is_a_model_in_float32(tmp_path: Path) -> None:
    text, names = sized([320, 512])
    (tmp_path / "sized.toml").write_text(text, encoding="utf-8")
    entries = standard_catalogue(tmp_path / "sized.toml")
    for name, size in zip(names, (320, 512), strict=True):
        assert entries[name].sha256 == Catalogue()[SIZED].sha256
        pipeline = registry.build(name, entries, Store())
        assert pipeline.card.input == (size, size)
        assert (pipeline.quantized, tuple(pipeline.precisions)) == (None, ())


def test_the_other_detectors_are_served_as_they_are() -> None:
    assert SIZED not in detectors()
    assert {"yolo-person", "yolov3-tiny"} <= set(detectors())
