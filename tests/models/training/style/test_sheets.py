"""The sheets of the documents and the table of networks, by their commands."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from models.classification.efficientnet import EfficientNetLite
from models.image import decode, encode
from models.style.transfer import save
from models.training.style import compare, gallery
from tests.models.style.small import STYLES, picture, random_backbone, random_network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("first", "second", *(style.name for style in STYLES))):
        (tmp_path / f"{name}.png").write_bytes(encode(picture(40, 60, seed), "png"))
        (tmp_path / f"{name}.jpg").write_bytes(encode(picture(40, 60, seed), "jpeg"))
    for seed in range(2):
        save(random_network(seed), tmp_path / f"network{seed}.safetensors")
    return tmp_path


@pytest.fixture
def classifier() -> EfficientNetLite:
    made = EfficientNetLite()
    made.backbone = random_backbone()
    return made


def test_a_sheet_for_every_photograph(folder: Path) -> None:
    images = [str(folder / "first.png"), str(folder / "second.png")]
    command = [str(folder / "network0.safetensors"), "--images", *images, "--names", "one", "two"]
    gallery.main([*command, "--size", "90", "--out", str(folder / "out")])
    shapes = {path.stem: decode(path.read_bytes()).pixels.shape for path in (folder / "out").glob("*.jpg")}
    assert shapes == {"one": (120, 270, 3), "two": (120, 270, 3), "strengths": (180, 270, 3)}


def test_images_beside_each_other_are_as_high_as_the_first(folder: Path) -> None:
    (folder / "tall.png").write_bytes(encode(picture(80, 60, 5), "png"))
    both = gallery.photograph(f"{folder / 'first.png'}+{folder / 'tall.png'}")
    assert both.shape == (40, 60 + 30, 3)
    np.testing.assert_array_equal(both[:, :60], gallery.photograph(str(folder / "first.png")))


def test_a_jpeg_is_as_good_as_its_bound_allows() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    best = gallery.compressed(noise)
    with patch.object(gallery, "LARGEST", len(best) - 1):
        assert len(gallery.compressed(noise)) < len(best)


def test_a_table_has_a_row_for_every_network_and_style(
    folder: Path, classifier: EfficientNetLite, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = [str(folder / f"network{seed}.safetensors") for seed in range(2)]
    paintings = [str(folder / f"{style.name}.png") for style in STYLES]
    with patch.object(compare, "load_classifier", return_value=classifier):
        common = ["--images", str(folder / "first.png"), "--size", "48", "--painting-size", "48"]
        common += ["--scale", "dots=40", "--trunk", "unused.pth"]
        compare.main([*networks, *common, "--paintings", *paintings])
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        [f"| network{seed}", style.name] for seed in range(2) for style in STYLES
    ]
    assert all(float(cell.strip(" |")) >= 0 for row in rows for cell in row[2:])
