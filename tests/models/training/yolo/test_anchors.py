"""k-means for anchors: known clusters, its properties, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from models.training.yolo.anchors import kmeans, main, mean_best_iou, shape_iou, shapes_of
from models.training.yolo.folder import Folder, read_boxes
from tests.paths import SHARED, needs_shared


def write_folder(root: Path, boxes: list[str], size: tuple[int, int] = (200, 100)) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for index, text in enumerate(boxes):
        PILImage.new("RGB", size, "grey").save(root / "images" / f"{index}.png")
        (root / "labels" / f"{index}.txt").write_text(text)
    return root


def test_shape_iou_by_hand() -> None:
    ious = shape_iou(np.array([[2.0, 4.0], [1.0, 1.0]]), np.array([[4.0, 2.0], [2.0, 4.0]]))
    np.testing.assert_allclose(ious, [[4 / 12, 1.0], [1 / 8, 1 / 8]])


def test_clusters_far_apart_are_found() -> None:
    random = np.random.default_rng(0)
    true = np.array([[10.0, 20.0], [60.0, 30.0], [150.0, 200.0]])
    shapes = np.concatenate([centre * random.uniform(0.95, 1.05, (100, 2)) for centre in true])
    found = kmeans(shapes, 3)
    np.testing.assert_allclose(found, true, rtol=0.03)
    assert mean_best_iou(shapes, found) > 0.93


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=4, max_size=60, unique=True
    ),
    count=st.integers(1, 4),
)
def test_properties(shapes: list[tuple[int, int]], count: int) -> None:
    table = np.array(shapes, dtype=np.float64)
    anchors = kmeans(table, count, restarts=3)
    assert anchors.shape == (count, 2)
    assert (np.diff(anchors.prod(axis=1)) >= 0).all()
    assert (anchors >= table.min(axis=0)).all()
    assert (anchors <= table.max(axis=0)).all()
    np.testing.assert_array_equal(anchors, kmeans(table, count, restarts=3))  # the seed decides
    # with as many anchors as shapes, each shape is its own
    assert mean_best_iou(table[:4], kmeans(table[:4], 4)) == pytest.approx(1.0)


def test_what_cannot_be_clustered_is_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        kmeans(np.array([[0.0, 1.0]]), 1)
    with pytest.raises(ValueError, match="different"):
        kmeans(np.ones((9, 2)), 2)


def test_labels_become_pixels_of_the_letterbox(tmp_path: Path) -> None:
    folder = Folder.read(write_folder(tmp_path, ["0 0.5 0.5 0.5 1.0\n", "", "2 0.1 0.1 0.1 0.1\n"]))
    # 200 x 100 on a canvas of 400: twice the size
    np.testing.assert_allclose(shapes_of(folder, 400), [[200, 200], [40, 20]])


@pytest.mark.parametrize(
    "line", ["0 0.5 0.5 0.5", "x 0.5 0.5 0.5 0.5", "0 0.5 0.5 0.5 nan", "0.5 0 0 1 1", "3 0 0 1 1"]
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "one.txt"
    path.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ValueError, match=r"one\.txt, line 2"):
        read_boxes(path, classes=3)


def test_a_label_without_a_picture_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, ["0 0.5 0.5 0.5 1.0"])
    (tmp_path / "labels" / "lost.txt").write_text("")
    with pytest.raises(ValueError, match=r"lost\.txt"):
        Folder.read(tmp_path)


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"0 0.5 0.5 {0.1 + 0.08 * index} {0.9 - 0.07 * index}" for index in range(8)]
    root = write_folder(tmp_path / "data", lines)
    picture = tmp_path / "anchors.png"
    main([str(root / "labels"), "--count", "2", "--size", "320", "--plot", str(picture)])
    printed = capsys.readouterr().out
    assert printed.startswith("8 boxes, mean best IoU 0.")
    assert len(printed.split("anchors: ")[1].split()) == 2
    with PILImage.open(picture) as drawn:
        assert drawn.width > 100


@needs_shared
def test_nine_anchors_fit_the_people() -> None:
    folder = Folder.read(SHARED / "data" / "coco-person", classes=1)
    shapes = shapes_of(Folder(folder.samples[::4]), 320)
    assert mean_best_iou(shapes, kmeans(shapes, 9, restarts=2)) > 0.6
    assert (
        mean_best_iou(shapes, kmeans(shapes, 9, restarts=2)) > mean_best_iou(shapes, kmeans(shapes, 3)) + 0.1
    )
