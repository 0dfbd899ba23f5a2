"""Training of our YOLO: split, augmentation, and a small run from end to end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_convert

from models.detection.pipeline import DetectorPipeline
from models.detection.yolo import Detector, Yolo, load
from models.pipeline import Card, Kind
from models.training.fold import fold, unfolded
from models.training.yolo import data
from models.training.yolo.__main__ import main
from models.training.yolo.augment import Augment, LabelledImage
from models.training.yolo.curve import main as draw
from models.training.yolo.evaluate import apart, evaluate, precision
from models.training.yolo.evaluate import main as measure
from models.training.yolo.folder import Folder, Sample
from models.training.yolo.trainer import Recipe, Trainer
from tests.models.detection.squares import CONFIG, draw_squares
from tests.paths import SHARED, needs_shared


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("squares"))


# --- split ---


@settings(max_examples=50, deadline=None)
@given(names=st.sets(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), max_size=40))
def test_the_split_is_a_partition_that_does_not_move(names: set[str]) -> None:
    samples = tuple(Sample(Path(f"{name}.jpg"), np.zeros((0, 5))) for name in sorted(names))
    train, held = data.split(Folder(samples))
    assert sorted((*train, *held), key=samples.index) == list(samples)
    assert len(train) + len(held) == len(samples)
    fewer, kept = data.split(Folder(samples[::2]))
    assert set(fewer) <= set(train)
    assert set(kept) <= set(held)


@needs_shared
def test_the_people_are_split_as_the_card_says() -> None:
    folder = Folder.read(SHARED / "data" / "coco-person", classes=1)
    train, held = data.split(folder)
    assert (len(train), len(held)) == (2095, 286)
    assert not {sample.path.name for sample in train} & {sample.path.name for sample in held}


# --- augmentation ---


def marked(width: int, height: int) -> LabelledImage:
    """A black picture with a white box, so that the box can be found again."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = width // 4, height // 3, width // 2, height * 2 // 3
    pixels[y1:y2, x1:x2] = 255
    return LabelledImage(pixels, np.array([[0, x1, y1, x2, y2]], np.float32))


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_move_with_their_pixels(mosaic: float) -> None:
    pictures = [marked(200, 120), marked(90, 160), marked(128, 128), marked(300, 200)]
    augment = Augment(mosaic=mosaic, hue=0, saturation=0, brightness=0)
    for seed in range(25):
        canvas, boxes = augment(pictures, seed % 4, 160, np.random.default_rng(seed))
        assert canvas.shape == (160, 160, 3)
        for _, x1, y1, x2, y2 in boxes:
            assert 0 <= x1 < x2 <= 160
            assert 0 <= y1 < y2 <= 160
            if min(x2 - x1, y2 - y1) > 8:
                inner = canvas[math.ceil(y1) + 2 : int(y2) - 2, math.ceil(x1) + 2 : int(x2) - 2]
                assert inner.min() > 245
                rim = canvas[max(0, int(y1) - 3) : math.ceil(y2) + 3, max(0, int(x1) - 3) : math.ceil(x2) + 3]
                outside = (rim > 200).all(axis=2).sum() - (x2 - x1) * (y2 - y1)
                assert abs(outside) < 2 * (x2 - x1 + y2 - y1)


def test_mixup_shows_both_pictures_and_keeps_their_boxes() -> None:
    dark, light = (
        LabelledImage(np.full((64, 64, 3), level, np.uint8), np.array([[0, *box]], np.float32))
        for level, box in ((0, (0, 0, 32, 32)), (200, (32, 32, 64, 64)))
    )
    plain = {"stretch": 0.0, "mirror": 0.0, "hue": 0.0, "saturation": 0.0, "brightness": 0.0}
    augment = Augment(mosaic=0, mixup=1, scale=(1.0, 1.0), **plain)
    found = [augment([dark, light], 0, 64, np.random.default_rng(seed)) for seed in range(12)]
    assert all(boxes[0, 1:].tolist() == [0, 0, 32, 32] and len(boxes) == 2 for _, boxes in found)
    mixed = [(canvas, boxes) for canvas, boxes in found if boxes[1, 1] == 32]  # not with itself
    assert mixed
    assert all(20 < canvas.min() == canvas.max() < 180 for canvas, _ in mixed)


def test_colour_changes_no_place_and_hardly_a_grey() -> None:
    picture = marked(64, 64)
    augment = Augment(mosaic=0, scale=(1.0, 1.0), mirror=0, stretch=0)
    canvas, boxes = augment([picture], 0, 64, np.random.default_rng(1))
    np.testing.assert_allclose(boxes, picture.boxes)
    assert (np.ptp(canvas.astype(int), axis=2) <= 1).all()


def test_grey_takes_the_colours_and_stretch_the_shape() -> None:
    red = LabelledImage(
        np.full((64, 64, 3), (200, 30, 30), np.uint8), np.array([[0, 16, 16, 48, 48]], np.float32)
    )
    augment = Augment(mosaic=0, scale=(0.8, 0.8), grey=1.0, stretch=0.2)
    shapes = set()
    for seed in range(8):
        canvas, boxes = augment([red], 0, 64, np.random.default_rng(seed))
        assert (np.ptp(canvas.astype(int), axis=2) == 0).all()
        (_, x1, y1, x2, y2) = boxes[0]
        shapes.add(round((x2 - x1) / (y2 - y1), 3))
        assert (x2 - x1) * (y2 - y1) == pytest.approx((0.8 * 32) ** 2, rel=1e-3)
    assert len(shapes) == 8
    assert all(math.exp(-0.4) <= shape <= math.exp(0.4) for shape in shapes)


def test_an_epoch_depends_on_its_seed_only(squares: Path) -> None:
    pictures = data.load(Folder.read(squares).samples[:10], 64)
    first, again, other = (
        [batch.images for batch in data.batches(pictures, 64, 4, Augment(), seed)] for seed in (1, 1, 2)
    )
    assert len(first) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


# --- folding, measuring, training ---


def shaken() -> Yolo:
    """A network whose batch norms all do something."""
    torch.manual_seed(3)
    network = Yolo(CONFIG).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(-0.2, 0.2)
    return network


def test_folding_there_and_back_is_the_same_function() -> None:
    network, images = shaken(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        fold(network.backbone)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.backbone.modules())
        for folded, back, expected in zip(network(images), unfolded(network)(images), before, strict=True):
            torch.testing.assert_close(folded, expected, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(back, expected, rtol=1e-3, atol=1e-4)


def test_precision_of_perfect_half_and_no_answers(squares: Path) -> None:
    samples = Folder.read(squares).samples
    perfect: list[tuple[int, int, float, tuple[float, float, float, float]]] = []
    for index, sample in enumerate(samples):
        width, height = sample.size
        scale = torch.tensor([width, height, width, height])
        corners = box_convert(torch.from_numpy(sample.boxes[:, 1:]), "cxcywh", "xyxy") * scale
        perfect += [(index, 0, 0.9, (x1, y1, x2, y2)) for x1, y1, x2, y2 in corners.tolist()]
    assert precision(samples, perfect, 1).ap50 == pytest.approx(1.0)
    assert precision(samples, perfect, 1).ap == pytest.approx(1.0)
    assert precision(samples, perfect[::2], 1).ap50 == pytest.approx(0.5, abs=0.02)
    assert precision(samples, [], 1).ap50 == 0
    moved = [
        (index, kind, score, (x1 + 500, y1, x2 + 500, y2)) for index, kind, score, (x1, y1, x2, y2) in perfect
    ]
    assert precision(samples, moved, 1).ap50 == 0


def test_what_is_found_in_a_crowd_counts_neither_way(squares: Path) -> None:
    labelled = next(sample for sample in Folder.read(squares).samples if len(sample.boxes) == 2)
    width, height = labelled.size
    scale = torch.tensor([width, height, width, height])
    corners = box_convert(torch.from_numpy(labelled.boxes[:, 1:]), "cxcywh", "xyxy") * scale
    first, second = ((x1, y1, x2, y2) for x1, y1, x2, y2 in corners.tolist())
    samples, crowds = apart([labelled], most=1)
    assert [len(sample.boxes) for sample in samples] == [1]
    # the surest detection lies in the crowd: without the region it is a false one
    found = [(0, 0, 0.9, second), (0, 0, 0.8, first)]
    assert precision(samples, found, 1, crowds).ap50 == pytest.approx(1.0)
    assert precision(samples, found, 1).ap50 == pytest.approx(0.5)
    assert precision([labelled], found, 1).ap50 == pytest.approx(1.0)


def test_evaluation_undoes_the_letterbox(squares: Path) -> None:
    """A detector that finds bright pixels of the canvas is nearly perfect on pictures of one square."""
    samples = [sample for sample in Folder.read(squares).samples if len(sample.boxes) == 1]

    class Bright(torch.nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            boxes = []
            for image in images:
                rows, columns = torch.where(image[..., 0] > 180)
                ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                boxes.append(torch.stack(ends).float())
            return torch.stack(boxes)[:, None], torch.tensor([0.2, 0.9]).expand(len(images), 1, 2)

    card = Card("bright", Kind.DETECT, "", "", labels=("round", "square"), input=(160, 160))
    figures = evaluate(DetectorPipeline(card, Bright), samples, ["square"])
    assert figures.ap50 == pytest.approx(1.0)
    assert figures.ap > 0.8


RECIPE = Recipe(
    size=64,
    test_size=64,
    batch=8,
    epochs=3,
    rate=4e-3,
    warmup=2,
    average=0.8,
    measure_every=2,
    longest=80,
    augment=Augment(mosaic=0.3, scale=(0.8, 1.2)),
)


def trainer(squares: Path, recipe: Recipe = RECIPE) -> Trainer:
    torch.manual_seed(0)
    train, held = data.split(Folder.read(squares))
    return Trainer(Yolo(CONFIG), train, held, recipe)


def test_a_small_training_learns(squares: Path, tmp_path: Path) -> None:
    run = trainer(squares, replace(RECIPE, epochs=6, measure_every=6))
    run.run(tmp_path)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["epoch"] for row in history] == list(range(1, 7))
    first, last = (row["box"] + row["objectness"] for row in (history[0], history[-1]))
    assert last < 0.9 * first
    assert 0 <= history[-1]["ap50"] <= 1
    frozen = run.network.backbone.blocks[0]
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    # what was saved is the averaged network
    saved = Detector(load(tmp_path / "best.safetensors")).eval()
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        for ours, theirs in zip(saved(images), Detector(run.average)(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.2)


def test_a_resumed_training_is_the_uninterrupted_one(squares: Path, tmp_path: Path) -> None:
    whole = trainer(squares)
    whole.run(tmp_path / "whole")
    first = trainer(squares)
    with (
        patch.object(Trainer, "measure", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        first.run(tmp_path / "parts")  # interrupted while it measures, after the second epoch
    second = trainer(squares)
    second.resume(tmp_path / "parts" / "last.pt")
    assert second.epoch == 1
    assert second.progress.value == pytest.approx(1 / 3)
    second.run(tmp_path / "parts")
    assert second.epoch == 3
    for name, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], tensor, rtol=0.05, atol=0.02)
    assert [row["epoch"] for row in second.history] == [1, 2, 3]


def test_a_training_goes_on_with_its_own_anchors_and_the_rates_it_is_given(
    squares: Path, tmp_path: Path
) -> None:
    first = trainer(squares)
    first.save(tmp_path / "last.pt")
    second = trainer(squares)
    for group in second.optimiser.param_groups:
        group["peak"] = 0.5
    second.resume(tmp_path / "last.pt")
    assert {group["peak"] for group in second.optimiser.param_groups} == {0.5}
    other = Yolo(replace(first.network.config, size=first.network.config.size + 32))
    second.network = other
    with pytest.raises(ValueError, match=r"last\.pt is of another network"):
        second.resume(tmp_path / "last.pt")


def test_the_command_trains_and_starts_from_earlier_weights(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        str(squares),
        "--labels",
        "square",
        "--size",
        "64",
        "--test-size",
        "96",
        "--batch",
        "8",
        "--epochs",
        "1",
    ]
    main([*common, "--out", str(tmp_path / "first")])
    assert "held out" in capsys.readouterr().out
    result = load(tmp_path / "first" / "best.safetensors")
    assert (result.config.labels, result.config.size) == (("square",), 96)
    main([*common, "--out", str(tmp_path / "second"), "--init", str(tmp_path / "first" / "best.safetensors")])
    assert (tmp_path / "second" / "last.pt").is_file()
    capsys.readouterr()
    measure([str(squares), "--labels", "square", "--weights", str(tmp_path / "first" / "best.safetensors")])
    printed = json.loads(capsys.readouterr().out)
    assert 0 <= printed["ap"] <= printed["ap50"] <= 1
    assert printed["images"] == len(data.split(Folder.read(squares))[1])


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    rows = [
        {"epoch": e, "box": 1 / e, "objectness": 0.5 / e, "ap50": 0.1 * e, "ap": 0.05 * e} for e in (1, 2, 3)
    ]
    del rows[1]["ap50"]  # not every epoch is measured
    (tmp_path / "history.json").write_text(json.dumps(rows))
    draw([str(tmp_path / "history.json"), str(tmp_path / "curve.svg")])
    assert "<svg" in (tmp_path / "curve.svg").read_text()
