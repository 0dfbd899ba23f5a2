"""The embedding network against dlib itself, and the reader of dlib's files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import dlib
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.builders.dlib_resnet import build
from models.errors import ParameterInvalid, WeightsError
from models.faces.dlib_format import Reader, read_network
from models.faces.dlib_resnet import convert, load_network, read_dat
from models.faces.result import Embedding
from models.image import Image
from models.training.faces.offline import run
from models.weights import Catalogue, File, sha256_of
from tests.models.faces.portraits import FACES, dat, embedder, files, portrait, portraits
from tests.paths import needs_shared

GROUPS = ("groups/two_people.jpg", "groups/kit_with_rose.jpg", "groups/obama_and_biden.jpg")


def encode(value: int) -> bytes:
    """dlib's integer, as its documentation tells."""
    magnitude = abs(value)
    size = max(1, (magnitude.bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + magnitude.to_bytes(size, "little")


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63)))
def test_integers_survive(values: list[int]) -> None:
    reader = Reader(b"".join(encode(value) for value in values))
    assert [reader.integer() for _ in values] == values
    assert reader.left == 0


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
def test_floats_survive(value: float) -> None:
    mantissa, exponent = math.frexp(value)
    data = encode(int(mantissa * 2**53)) + encode(exponent - 53)
    assert Reader(data).real() == value


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(WeightsError):
        read_network(data)
    with pytest.raises(WeightsError):
        read_network(b"\x01\x01\x01\x0dloss_metric_2" + data)


def test_a_damaged_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = dat().read_bytes()
    for end in (0, 1, 100, 5_000, 3_000_000, len(whole) - 1):
        with pytest.raises(WeightsError):
            read_network(whole[:end])
    with pytest.raises(WeightsError, match="follow"):
        read_network(whole + b"\x00")
    changed = tmp_path / "other.dat"
    # the first convolution: five rows in place of seven
    at = whole.index(b"\x01\x20\x01\x07\x01\x07")
    changed.write_bytes(whole[: at + 3] + b"\x05" + whole[at + 4 :])
    with pytest.raises(WeightsError, match=r"other\.dat"):
        read_dat(changed)


def test_the_conversion_is_the_same_each_time_and_the_same_network(tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert(dat(), tmp_path / name)
    assert (
        sha256_of(tmp_path / "one")
        == sha256_of(tmp_path / "two")
        == sha256_of(files("dlib-resnet")["weights"])
    )
    converted, parsed = load_network(tmp_path / "one").state_dict(), read_dat(dat()).state_dict()
    assert converted.keys() == parsed.keys()
    for name, tensor in parsed.items():
        assert torch.equal(converted[name], tensor)
    with pytest.raises(WeightsError, match=r"\.dat"):
        load_network(dat())


@needs_shared
def test_every_face_has_the_embedding_that_dlib_gives_it() -> None:
    reference = dlib.face_recognition_model_v1(str(dat()))
    paths = [path for _, path in portraits()] + [name for name in GROUPS if (FACES / name).is_file()]
    apart = []
    for path in paths:
        shown = portrait(path)
        for chip, embedding in zip(shown.chips, shown.embeddings, strict=True):
            expected = np.array(reference.compute_face_descriptor(np.ascontiguousarray(chip.pixels)))
            apart.append(np.linalg.norm(embedding.vector - expected))
    assert len(apart) >= 20
    assert max(apart) < 1e-4


def test_it_is_the_same_in_a_batch_and_for_any_chip() -> None:
    rng = np.random.default_rng(0)
    chips = [Image(rng.integers(0, 256, (150, 150, 3), dtype=np.uint8), 150, 150) for _ in range(3)]
    chips.append(Image(np.zeros((150, 150, 3), np.uint8), 150, 150))
    together = run(embedder(), chips)
    for chip, embedding in zip(chips, together, strict=True):
        (alone,) = run(embedder(), [chip])
        assert isinstance(embedding, Embedding)
        assert isinstance(alone, Embedding)
        assert embedding.vector.dtype == np.float32
        assert embedding.vector.shape == (128,)
        assert embedding.model == embedder().card.sha256
        np.testing.assert_allclose(alone.vector, embedding.vector, atol=1e-5)
    assert "vector" not in repr(together[0])


def test_a_whole_picture_is_refused() -> None:
    with pytest.raises(ParameterInvalid) as caught:
        embedder().preprocess(Image(np.zeros((480, 640, 3), np.uint8), 640, 480))
    assert caught.value.parameter == "image"


def write_head(path: Path, weight: torch.Tensor, base: str) -> File:
    save_file({"weight": weight}, path, metadata={"head": json.dumps({"base": base, "threshold": 0.5})})
    return File("file", str(path), sha256_of(path))


def test_a_head_projects_and_makes_another_model_of_it(tmp_path: Path) -> None:
    entry, paths = Catalogue()["dlib-resnet"], files("dlib-resnet")
    weight = torch.linspace(-1, 1, 64 * 128).view(64, 128)
    head = write_head(tmp_path / "head.safetensors", weight, entry.files["weights"].sha256)
    with_head = dataclasses.replace(entry, files={**entry.files, "head": head})
    adapted = build(with_head, {**paths, "head": tmp_path / "head.safetensors"})
    chip = Image(np.full((150, 150, 3), 99, np.uint8), 150, 150)
    (plain,), (projected,) = run(embedder(), [chip]), run(adapted, [chip])
    assert isinstance(plain, Embedding)
    assert isinstance(projected, Embedding)
    np.testing.assert_allclose(projected.vector, weight.numpy() @ plain.vector, atol=1e-4)
    assert adapted.card.sha256 != embedder().card.sha256
    assert len(adapted.card.sha256) == 64
    assert adapted.card.details["dimensions"] == 64
    assert adapted.card.details["threshold"] == 0.5


def test_a_wrong_head_is_refused(tmp_path: Path) -> None:
    entry, paths = Catalogue()["dlib-resnet"], files("dlib-resnet")
    base = entry.files["weights"].sha256
    path = tmp_path / "head.safetensors"

    def attempt(weight: torch.Tensor, trained_on: str, message: str) -> None:
        head = write_head(path, weight, trained_on)
        with pytest.raises(WeightsError, match=message):
            build(dataclasses.replace(entry, files={**entry.files, "head": head}), {**paths, "head": path})

    attempt(torch.eye(128), "0" * 64, "was trained on")
    attempt(torch.eye(64), base, "must be finite")
    attempt(torch.full((4, 128), math.nan), base, "must be finite")
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match=r"head\.safetensors"):
        build(entry, {**paths, "head": path})
