"""16 bits as a GPU computes them: the arithmetic, and what it does to each model's answers on real images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.quantize.gates import STAGES, judge
from models.quantize.halves import Rounded
from models.weights import Catalogue
from tests.paths import SHARED, needs_shared


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_of_float32_and_results_of_16_bits(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=rng).to(dtype) for _ in range(2))
    with Rounded(dtype), torch.no_grad():
        product = a @ b
        total = product.float().sum()
    torch.testing.assert_close(product, (a.float() @ b.float()).to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(total, product.float().sum())
    assert product.dtype == dtype


def test_what_has_no_16_bits_is_left_alone() -> None:
    with Rounded(torch.float16), torch.no_grad():
        assert torch.equal(torch.arange(3) + 1, torch.tensor([1, 2, 3]))
        assert (torch.ones(2) / 3)[0] == torch.ones(2)[0] / 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the images that the gates are for."""
    folder, source = tmp_path_factory.mktemp("data"), SHARED / "data"

    def link(name: str, count: int) -> list[Path]:
        paths = sorted(path for path in (source / name).rglob("*.jpg"))
        chosen = paths[:: max(1, len(paths) // count)][:count]
        for path in chosen:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
        return chosen

    link("imagenet-sample", 6)
    link("photos", 1)
    link("faces", 8)
    (folder / "coco80/val/labels").mkdir(parents=True)
    for name in ("coco80/coco.names", "coco80/crowd.json"):
        (folder / name).symlink_to(source / name)
    for path in link("coco80/val/images", 4):
        label = f"coco80/val/labels/{path.stem}.txt"
        (folder / label).symlink_to(source / label)
    return folder


FLOAT16 = [
    (entry.name, precision)
    for entry in Catalogue()
    for precision in (*entry.precisions, *(f"{STAGES} {name}" for name in entry.stage_precisions))
    if precision.endswith("float16") and not precision.endswith("bfloat16")
]


@needs_shared
@pytest.mark.parametrize(("model", "precision"), FLOAT16)
def test_float16_passes_the_gates_of_its_models(model: str, precision: str, data: Path) -> None:
    if model == "yolo-person":
        data = data.parent / "people"
        people(data)
    (row,) = judge([model], data, gpu=True, only=[precision])
    if "AP50" in row.figures:  # of so few images one box more or less is a point; the gates are for all
        assert abs(row.figures["AP, points"]) < 1
        assert abs(row.figures["AP50, points"]) < 2
    else:
        assert row.passed, row.figures


def people(folder: Path) -> None:
    """Two of the images of people that are held out."""
    from models.training.yolo.data import held_out

    source = SHARED / "data" / "coco-person"
    names = [path.stem for path in sorted((source / "labels").glob("*.txt")) if held_out(path.stem)]
    for name in (names[0], names[len(names) // 2]):
        for part, suffix in (("images", "jpg"), ("labels", "txt")):
            target = folder / "coco-person" / part / f"{name}.{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source / part / target.name)


def test_what_is_served_at_16_bits_on_a_gpu() -> None:
    assert {name for name, _ in FLOAT16} == {
        "efficientnet-lite0",
        "efficientdet-lite0",
        "yolo-person",
        "mtcnn",
        "dlib-resnet",
        "paintings",
    }
