"""Quantization of a small network, and that a result is served beside its own float weights alone."""

from __future__ import annotations

import dataclasses
import hashlib
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, save

from models import registry
from models.errors import WeightsError
from models.image import Image
from models.ir.network import Networks
from models.pipeline import eager
from models.quantize.__main__ import FIRST, FLOAT, images_in, in_order, main, recipe
from models.weights import INT8, Catalogue, Entry, File, Store, sha256_of
from tests.models.image.test_decode import smooth


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        pixels = smooth(40 + number, 50).astype(int) * (number + 4) // 16
        cv2.imwrite(str(folder / f"{number}.png"), pixels.astype(np.uint8))
    return folder


def test_the_choice_of_images_depends_on_their_names_alone(images: Path, tmp_path: Path) -> None:
    names = [path.name for path in images_in(images, 5)]
    assert len(names) == 5
    other = tmp_path / "deep" / "down"
    other.mkdir(parents=True)
    for path in sorted(images.iterdir(), reverse=True):
        (other / path.name).write_bytes(path.read_bytes())
    assert [path.name for path in images_in(tmp_path, 5)] == names
    with pytest.raises(WeightsError, match="holds no image"):
        images_in(Path(__file__).parent, 5)


def test_an_int8_network_is_served_beside_its_own_weights_alone(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    out = tmp_path / "lenet5-int8.safetensors"
    assert main(["lenet5", "--images", str(images), "--out", str(out)]) == 0
    assert sha256_of(out) in capsys.readouterr().out
    plain = Catalogue()["lenet5"]
    with safe_open(out, "np") as file:
        metadata = file.metadata()
    assert metadata["weights"] == plain.sha256
    assert metadata["images"] == "12"
    assert recipe((), images_in(images, 12)).items() <= metadata.items()

    file = File("file", str(out), sha256_of(out))
    entry = dataclasses.replace(plain, files={**plain.files, INT8: file}, precisions=("int8",))
    pipeline = registry.build_entry(entry, Store().files(entry))
    prepared = [pipeline.preprocess(Image(smooth(60, 60), 60, 60)).inputs[0]] * 3
    found = Networks(pipeline, "int8", 1).run([np.stack(prepared)])
    wanted = eager(pipeline.module, np.stack(prepared))
    assert [one.shape for one in found] == [one.shape for one in wanted]
    np.testing.assert_allclose(found[0], wanted[0], atol=0.1)
    assert np.abs(found[0] - wanted[0]).max() > 0  # it is another network

    weights = dataclasses.replace(plain.files["weights"], sha256="0" * 64)
    other = dataclasses.replace(entry, files={"weights": weights, INT8: file})
    with pytest.raises(WeightsError, match=r"files\.int8 was made of weights with sha256"):
        registry.build_entry(other, {"weights": Store().files(plain)["weights"], INT8: out})


QUANTIZED = [entry for entry in Catalogue() if INT8 in entry.files]


@pytest.mark.parametrize("entry", QUANTIZED, ids=lambda entry: entry.name)
def test_a_committed_file_is_what_the_command_makes_by_default(entry: Entry) -> None:
    file = Store().originals(entry)[INT8]
    with safe_open(file, "np") as opened:
        made = opened.metadata()
    assert made.pop("weights") == entry.sha256
    assert made.pop("recipe") == hashlib.sha256(repr(sorted(made.items())).encode()).hexdigest()
    assert made["float_layers"] == " ".join(FLOAT.get(entry.name, ()))
    assert made.get("float_first", "0") == str(FIRST.get(entry.name, 0))
    assert sha256_of(file) in file.with_suffix(".md").read_text(encoding="utf-8")


def test_the_same_network_is_the_same_file() -> None:
    tensors = {"graph": np.arange(5, dtype=np.uint8), "constants": np.arange(7, dtype=np.uint8)}
    about = {"weights": "0" * 64, "images": "12", "float_layers": "aten::.*"}
    files = {in_order(save(tensors, dict(names))) for names in permutations(about.items())}
    assert len(files) == 1
    (file,) = files
    for name, values in load(file).items():
        np.testing.assert_array_equal(values, tensors[name])


def test_a_precision_needs_its_file() -> None:
    plain = Catalogue()["lenet5"]
    with pytest.raises(ValueError, match="int8 where, and only where"):
        dataclasses.replace(plain, precisions=("int8",))
    with pytest.raises(ValueError, match="none of int8, bfloat16"):
        dataclasses.replace(plain, precisions=("int4",))
