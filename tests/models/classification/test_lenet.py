"""LeNet-5: its shape, its training, what the committed weights know, and how any picture becomes a digit."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from models.builders.lenet import build
from models.classification.digits import digit_crop, place
from models.classification.lenet import BACKGROUND, INK, LeNet5, load
from models.classification.pipeline import ClassifierPipeline
from models.classification.result import Classification, ClassifyOptions
from models.errors import WeightsError
from models.image import Image, Pixels, decode, encode, resize
from models.pipeline import Kind, Pipeline, eager
from models.training.lenet import augment, confusion, held_out, main, read_idx, read_mnist, train
from models.weights import COMMITTED, Entry, File
from tests.paths import SHARED, needs_shared

WEIGHTS = COMMITTED / "lenet5.safetensors"


@cache
def pipeline() -> ClassifierPipeline:
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    entry = Entry(
        "lenet5", Kind.CLASSIFY, "lenet5", "Apache-2.0", {"weights": File("repo", WEIGHTS.name, digest)}
    )
    return build(entry, {"weights": WEIGHTS})


@cache
def judged() -> tuple[Tensor, Tensor]:
    images, labels = read_mnist(SHARED / "data" / "mnist")
    return images[held_out(len(images))], labels[held_out(len(images))]


def answer(pixels: list[Pixels]) -> list[Classification]:
    """What the pipeline says of each picture, by the way of the serving code."""
    prepared = [
        pipeline().preprocess(Image(one, one.shape[1], one.shape[0]), ClassifyOptions(top_k=3))
        for one in pixels
    ]
    outputs = eager(pipeline().module, np.stack([one.inputs[0] for one in prepared]))
    return pipeline().postprocess(outputs, [one.context for one in prepared])


def accuracy(pixels: list[Pixels], labels: Tensor) -> float:
    guesses = torch.tensor([one.labels[0].index for one in answer(pixels)])
    return float((guesses == labels).float().mean())


def grey(digit: Tensor) -> Pixels:
    return np.repeat(digit.numpy()[..., None], 3, axis=2)


def test_layers_have_the_papers_sizes() -> None:
    network = LeNet5()
    sizes = [tuple(p.shape) for p in network.parameters() if p.dim() == 4]
    assert sizes == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 16, 5, 5), (84, 120, 1, 1), (10, 84, 1, 1)]
    assert network.features(network.levels(torch.zeros(2, 3, 32, 32))).shape == (2, 16, 5, 5)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_glorots_initialisation() -> None:
    torch.manual_seed(0)
    weight = next(p for p in LeNet5().parameters() if p.shape[:2] == (120, 16)).detach()
    limit = (6 / ((16 + 120) * 25)) ** 0.5
    assert weight.abs().max() <= limit
    assert weight.std() == pytest.approx(limit / 3**0.5, rel=0.02)


def test_grey_levels() -> None:
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).T.reshape(1, 3, 1, 5)
    share = (LeNet5().levels(colours).flatten() - BACKGROUND) / (INK - BACKGROUND)
    torch.testing.assert_close(share, torch.tensor([0, 1, 0.299, 0.587, 0.114]))


def test_the_pipeline_keeps_the_seam() -> None:
    made = pipeline()
    assert isinstance(made, Pipeline)
    assert made.card.labels == tuple("0123456789")
    assert made.shapes == ((32, 32, 3),)
    assert made.card.sha256 in (COMMITTED / "lenet5.md").read_text(encoding="utf-8")
    probabilities, _ = made.module(torch.zeros(3, 32, 32, 3, dtype=torch.uint8))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))


@needs_shared
def test_held_out_digits() -> None:
    images, labels = judged()
    assert len(images) == 2000
    table = confusion(load(WEIGHTS), images, labels)
    assert table.sum() == 2000
    assert table.diagonal().sum() >= 1970
    assert accuracy([grey(digit) for digit in images], labels) == pytest.approx(
        float(table.diagonal().sum()) / 2000
    )


@needs_shared
@pytest.mark.parametrize("form", ["inverted", "large", "photo"])
def test_other_pictures_of_digits(form: str) -> None:
    images, labels = judged()
    rng = np.random.default_rng(0)
    pictures = []
    for digit in images[:200]:
        pixels = grey(digit)
        if form == "inverted":
            pixels = 255 - pixels
        elif form == "large":
            pixels = resize(pixels, 300, 300)
        else:  # dark ink somewhere on shaded, grainy paper, as a JPEG
            sheet = np.full((240, 320), 205.0) + np.linspace(-25, 25, 320)
            y, x = rng.integers(10, 100), rng.integers(10, 180)
            sheet[y : y + 130, x : x + 130] -= resize(pixels, 130, 130)[..., 0] * (150 / 255)
            sheet += rng.normal(0, 5, sheet.shape)
            flat = np.repeat(sheet.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
            pixels = decode(encode(flat, "jpeg", 80)).pixels
        pictures.append(pixels)
    assert accuracy(pictures, labels[:200]) >= 0.97


def test_a_drawn_digit_is_read() -> None:
    paper = np.full((200, 150, 3), 250, np.uint8)
    cv2.line(paper, (75, 40), (75, 160), (20, 20, 60), 12)
    assert answer([paper])[0].labels[0].label == "1"


def test_the_crop_tells_where_it_lies() -> None:
    paper = np.full((400, 300, 3), 255, np.uint8)
    paper[100:200, 150:230] = 0  # a block of 80 x 100, its middle at (190, 150)
    pixels, (left, top, right, bottom) = place(Image(paper, 600, 800))  # decoded at half its size
    assert pixels.shape == (32, 32, 3)
    assert (right - left, bottom - top) == pytest.approx((320, 320), rel=0.03)
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((380, 300), abs=12)
    np.testing.assert_array_equal(digit_crop(Image(paper, 600, 800)), pixels)


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)).flatmap(
        lambda size: arrays.arrays(np.uint8, (*size, 3), fill=st.sampled_from([0, 255]))
    )
)
def test_any_picture_fits(pixels: Pixels) -> None:
    cropped, (left, top, right, bottom) = place(Image(pixels, pixels.shape[1], pixels.shape[0]))
    assert cropped.shape == (32, 32, 3)
    assert left < right
    assert top < bottom


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 2)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_and_narrow_pictures(size: tuple[int, int], level: int) -> None:
    assert digit_crop(Image(np.full((*size, 3), level, np.uint8), size[1], size[0])).shape == (32, 32, 3)


def test_weights_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match=r"other\.safetensors"):
        load(tmp_path / "other.safetensors")


def idx(array: Pixels) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return gzip.compress(head + array.tobytes())


def stripes(count: int) -> tuple[Pixels, Pixels]:
    """Two classes that are learned at once: a bar that stands and a bar that lies."""
    labels = np.arange(count, dtype=np.uint8) // 2 % 2
    images = np.zeros((count, 28, 28), np.uint8)
    images[labels == 0, 4:24, 12:16] = 255
    images[labels == 1, 12:16, 4:24] = 255
    return images, labels


def test_training_learns_and_repeats_itself() -> None:
    images, labels = (torch.from_numpy(part) for part in stripes(160))
    first, second = (train(images, labels.long(), epochs=2, seed=3) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert confusion(first, images, labels.long()).diagonal().sum() == 160


def test_augmentation_moves_without_losing_the_digit() -> None:
    images = torch.from_numpy(stripes(8)[0]).float()[:, None].expand(-1, 3, -1, -1) / 255
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    torch.testing.assert_close(moved.sum((1, 2, 3)), images.sum((1, 2, 3)), rtol=0.4, atol=0)


def test_the_command_writes_weights_and_tells_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, labels = stripes(50)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(idx(images))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        assert main(["--data", str(tmp_path), "--epochs", "1", "--out", str(out)]) == 0
    digest = hashlib.sha256((out / "lenet5.safetensors").read_bytes()).hexdigest()
    assert digest in caplog.text
    assert "held out: " in caplog.text
    assert load(out / "lenet5.safetensors")(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_file_that_is_no_idx(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\x00\x00\x0d\x01" + bytes(8)))
    with pytest.raises(ValueError, match="no IDX"):
        read_idx(tmp_path / "x.gz")
