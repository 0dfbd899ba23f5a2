"""The inspector: an entry that a catalogue takes, a right guess for each layout, and a trial on a photo."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.exported.guess import guess
from models.exported.opener import open_network
from models.pipeline import Kind
from models.registry import build
from models.weights import Catalogue, Store, sha256_of
from service.inspect import main
from tests.models.exported.files import FORMATS, Classifier, Constant, export, onnx
from tests.models.exported.test_embedder import ArcFace
from tests.models.image.test_decode import smooth

CELLS = 8400  # of a canvas of 640


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), smooth(300, 400))
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """What goes to stdout: the entry, and what follows it."""
    assert main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    entry, _, after = out.partition("\non openvino")
    return entry, after


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_entry_is_ready_to_paste(
    suffix: str, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(Classifier(5), tmp_path / f"mine.{suffix}", (3, 224, 224))
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    entry, after = printed(
        capsys, path, "--labels", labels, "--image", photo, "--name", "five", "--set", "fraction=1"
    )
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(entry, encoding="utf-8")
    pipeline = build("five", Catalogue((catalogue,)), Store(tmp_path))
    assert pipeline.card.labels == ("a", "b", "c", "d", "e")
    assert pipeline.card.sha256 == sha256_of(path)
    assert pipeline.card.input == (224, 224)
    assert len(re.findall(r"^0\.\d{4} [a-e]$", after, re.MULTILINE)) == 5


def test_detections_are_drawn(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = torch.zeros(6, 80)
    rows[:, 3] = torch.tensor([100.0, 100.0, 80.0, 60.0, 0.9, 0.0])
    path = export(Constant(rows), tmp_path / "boxes.onnx", (3, 160, 160))
    drawn = tmp_path / "drawn.jpg"
    entry, after = printed(capsys, path, "--image", photo, "--draw", drawn, "--set", 'labels=["cat", "dog"]')
    assert 'labels = ["cat", "dog"]' in entry
    assert "0.9000 cat" in after
    assert "1 detections, drawn on" in after
    picture = cv2.imread(str(drawn))
    assert picture.shape == (300, 400, 3)
    assert np.abs(picture.astype(int) - smooth(300, 400)).max() > 100


def test_scores_that_are_no_probabilities_are_noticed(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(Classifier(5), tmp_path / "mine.onnx", (3, 64, 64))
    _, after = printed(capsys, path, "--image", photo, "--set", "scores=probabilities")
    assert 'set scores = "logits"' in after


def test_probabilities_that_are_no_logits_are_noticed(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(nn.Sequential(Classifier(5), nn.Softmax(1)), tmp_path / "mine.onnx", (3, 64, 64))
    _, after = printed(capsys, path, "--image", photo)
    assert 'set scores = "probabilities"' in after
    _, after = printed(capsys, path, "--image", photo, "--set", "scores=probabilities")
    assert "set scores" not in after


def test_a_vector_of_a_face(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export(ArcFace(), tmp_path / "face.onnx", (3, 112, 112))
    entry, after = printed(capsys, path, "--task", "embed", "--image", photo)
    assert 'task = "embed"' in entry
    assert "64 numbers, length 1.0000" in after


@pytest.mark.parametrize(
    ("outputs", "head", "classes"),
    [
        ([(84, CELLS)], "yolov8", 80),
        ([(7, CELLS)], "yolov8", 3),
        ([(3 * CELLS, 85)], "yolov5", 80),
        ([(300, 6)], "end2end", 80),
        ([(CELLS, 85)], "yolox", 80),
        ([(300, 84)], "rtdetr", 80),
        ([(100, 92), (100, 4)], "detr", 91),
        ([(300, 80), (300, 4)], "rtdetr", 80),
        ([(3000, 4), (3000, 21)], "ssd", 20),
    ],
)
def test_heads_are_guessed(outputs: list[tuple[int, ...]], head: str, classes: int, tmp_path: Path) -> None:
    path = export(Constant(*(torch.zeros(shape) for shape in outputs)), tmp_path / "mine.pt2", (3, 640, 640))
    found = guess(open_network(path))
    assert (found.task, found.options["head"], found.classes) == (Kind.DETECT, head, classes)
    assert found.options["size"] == [640, 640]


def test_ultralytics_metadata_is_read(tmp_path: Path) -> None:
    import onnx as onnx_format
    from onnx import helper

    path = tmp_path / "best.onnx"
    axes: Any = torch.zeros(2, 3, 64, 64)
    onnx(Constant(torch.zeros(6, 84)).eval(), path, axes, free=True)
    model = onnx_format.load(path)
    helper.set_model_props(model, {"names": "{0: 'cat', 1: 'dog'}", "imgsz": "[64, 64]"})
    onnx_format.save(model, path)
    found = guess(open_network(path))
    assert (found.labels, found.options["size"], found.options["head"]) == (
        ["cat", "dog"],
        [64, 64],
        "yolov8",
    )


def test_a_network_for_one_image_is_found_out(tmp_path: Path) -> None:
    class One(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.reshape(1, -1)[:, :7]

    path = export(One(), tmp_path / "one.pt", (3, 64, 64), free=False)
    assert guess(open_network(path), given={"size": [64, 64]}).options["batch"] == 1


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"nothing"])
def test_a_failure_is_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(content)
    assert main([str(path)]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert "mine.pt is" in told.err
    saved = io.BytesIO()
    torch.save(Classifier().state_dict(), saved)
    path.write_bytes(saved.getvalue())
    assert main([str(path)]) == 1
    assert "is a pickle" in capsys.readouterr().err
