"""Darknet's files: weights that fit or do not, and what `build` makes of them, on real pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.detection.darknet import cfg as cfg
from models.detection.darknet.network import Darknet, DarknetPipeline, build
from models.detection.darknet.weights import load_weights
from models.detection.result import Detections, DetectOptions
from models.errors import WeightsError
from models.image import decode
from models.pipeline import Kind, Pipeline, eager
from models.registry import build_entry
from models.weights import Entry, File, sha256_of
from tests.models.detection.darknet.random_networks import HEAD, SMALL, write_weights
from tests.paths import SHARED, needs_shared

WEIGHTS = SHARED / "weights"
DOG = SHARED / "data" / "photos" / "dog.jpg"


@pytest.mark.parametrize(("version", "header"), [((0, 1), 16), ((0, 2), 20), ((1, 0), 20), ((0, 1001), 16)])
def test_header_has_two_lengths(version: tuple[int, int], header: int, tmp_path: Path) -> None:
    network = Darknet(cfg.parse(SMALL + HEAD, "a.cfg"))
    path = tmp_path / "a.weights"
    write_weights(network, path)
    body = path.read_bytes()[20:]
    path.write_bytes(np.array([*version, 0], "<i4").tobytes() + bytes(header - 12) + body)
    load_weights(network.convolutions(), path)
    (_, first), *_ = network.convolutions()
    bias, scale, mean, variance = np.frombuffer(body, "<f4", 28).reshape(4, 7)
    factor = scale / np.sqrt(variance + 1e-6)
    kernel = np.frombuffer(body, "<f4", 7 * 27, 28 * 4).reshape(7, 3, 3, 3) * factor[:, None, None, None]
    assert first.bias is not None
    np.testing.assert_allclose(first.bias, bias - mean * factor, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first.weight, kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:10], "w.weights: too short for the header of 16 bytes: it has 10"),
        (lambda data: data[:-2], "w.weights: 1078 bytes are no header of 20 and whole float32 numbers"),
        (lambda data: data[:-4], "layer 1 [convolutional] of a.cfg needs 1060 bytes"),
        (
            lambda data: data[:60],
            "layer 0 [convolutional] of a.cfg needs 868 bytes after the header, the file has 40",
        ),
        (
            lambda data: data + bytes(8),
            "too long: layer 1 [convolutional] of a.cfg, the last with weights, ends 1060 b",
        ),
    ],
)
def test_a_wrong_length_is_an_error_with_both_sizes(
    change: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    network = Darknet(cfg.parse(SMALL + HEAD, "a.cfg"))
    path = tmp_path / "w.weights"
    write_weights(network, path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_weights(network.convolutions(), path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    network = Darknet(cfg.parse(SMALL + HEAD, "a.cfg"))
    with pytest.raises(WeightsError, match=r"none.weights: unreadable"):
        load_weights(network.convolutions(), tmp_path / "none.weights")


def entry_of(name: str, files: dict[str, Path], options: dict[str, object]) -> Entry:
    sources = {role: File("file", str(path), sha256_of(path)) for role, path in files.items()}
    return Entry(name, Kind.DETECT, "darknet", "public domain", sources, options)


def pipeline_of(name: str, **options: object) -> DarknetPipeline:
    files = {
        "weights": WEIGHTS / f"{name}.weights",
        "config": WEIGHTS / f"{name}.cfg",
        "labels": WEIGHTS / "coco.names",
    }
    return build(entry_of(name, files, options), files)


def detect(pipeline: DarknetPipeline, options: DetectOptions | None = None) -> Detections:
    item = pipeline.preprocess(decode(DOG.read_bytes(), min_side=pipeline.min_side), options)
    outputs = eager(pipeline.module, item.inputs[0][None])
    return pipeline.postprocess(outputs, [item.context])[0]


@needs_shared
@pytest.mark.parametrize("letter_box", [False, True])
def test_finds_the_dog_the_bicycle_and_the_car(letter_box: bool) -> None:
    found = detect(pipeline_of("yolo-fastest-1.1-xl", letter_box=letter_box))
    assert (found.width, found.height) == (768, 576)
    places = {
        "dog": (131, 225, 310, 540),
        "bicycle": (120, 125, 568, 420),
        "car": (470, 76, 690, 170),
    }  # by eye
    for label, place in places.items():
        best = max((item for item in found.items if item.label == label), key=lambda item: item.score)
        assert best.score > 0.6
        assert _iou(best.box, place) > 0.45, (label, best.box)


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return w * h / (areas - w * h)


@needs_shared
def test_a_batch_answers_as_its_pictures_alone() -> None:
    pipeline = pipeline_of("yolo-fastest-1.1")
    items = [
        pipeline.preprocess(decode(path.read_bytes()), DetectOptions(score_threshold=threshold))
        for path, threshold in zip(
            sorted(DOG.parent.glob("*.jpg")), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True
        )
    ]
    together = eager(pipeline.module, np.stack([item.inputs[0] for item in items]))
    alone = [eager(pipeline.module, item.inputs[0][None]) for item in items]
    batched = pipeline.postprocess(together, [item.context for item in items])
    for item, outputs, result in zip(items, alone, batched, strict=True):
        (single,) = pipeline.postprocess(outputs, [item.context])
        assert len(single.items) == len(result.items) > 0
        for one, other in zip(single.items, result.items, strict=True):
            assert one.label == other.label
            np.testing.assert_allclose((one.score, *one.box), (other.score, *other.box), atol=0.02)


@needs_shared
def test_options_size_and_card() -> None:
    pipeline = pipeline_of("yolo-fastest-1.1", width=416, height=256, score_threshold=0.4)
    assert isinstance(pipeline, Pipeline)
    card = pipeline.card
    assert (card.name, card.input, card.license) == ("yolo-fastest-1.1", (256, 416), "public domain")
    assert (card.labels[0], card.labels[-1], len(card.labels)) == ("person", "toothbrush", 80)
    assert card.sha256 == sha256_of(WEIGHTS / "yolo-fastest-1.1.weights")
    assert pipeline.shapes == ((256, 416, 3),)
    found = detect(pipeline)
    assert all(item.score >= 0.4 for item in found.items)
    only = detect(pipeline, DetectOptions(classes=("dog",), score_threshold=0.05, max_detections=2))
    assert {item.label for item in only.items} == {"dog"}


def test_files_must_be_there_and_fit_each_other(tmp_path: Path) -> None:
    config, weights, labels = tmp_path / "a.cfg", tmp_path / "a.weights", tmp_path / "a.names"
    config.write_text(SMALL + HEAD)
    write_weights(Darknet(cfg.parse(SMALL + HEAD, "a.cfg")), weights)
    labels.write_text("cat\ndog\n")
    files = {"config": config, "weights": weights, "labels": labels}
    with pytest.raises(WeightsError, match=re.escape("a.names: 2 labels, but a.cfg has 1 classes")):
        build_entry(entry_of("a", files, {}), files)
    del files["labels"]
    with pytest.raises(WeightsError, match=re.escape("'a': a darknet model needs files.labels")):
        build_entry(entry_of("a", files, {}), files)
