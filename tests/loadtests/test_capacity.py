"""What a capacity sweep recommends."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from loadtests.capacity import CHIP, EMBEDDER, TASK_OF, advise, curve, job_of, table
from loadtests.plots import of_sweep

CPU = curve({1: 182.0, 2: 178.0, 4: 176.0, 8: 162.0}, processes=2)
GPU = curve({1: 400.0, 8: 2600.0, 32: 3900.0, 64: 4000.0}, processes=1)


def test_a_batch_takes_what_the_rate_says() -> None:
    assert curve({2: 100.0, 1: 80.0}, processes=2) == [
        (1, 80.0, pytest.approx(0.025)),
        (2, 100.0, pytest.approx(0.040)),
    ]


def test_where_batches_gain_nothing_none_is_recommended_and_no_image_waits() -> None:
    advice = advise(CPU, 0.1)
    assert (advice.max_batch, advice.linger_ms, advice.target) == (1, 0.0, 18)


def test_where_batches_gain_the_smallest_near_the_best_is_recommended_and_a_short_wait() -> None:
    advice = advise(GPU, 0.1)
    assert (advice.max_batch, advice.linger_ms, advice.target) == (32, 0.6, 390)


def test_the_wait_is_short_even_for_a_slow_model() -> None:
    slow = curve({1: 5.0, 8: 20.0}, processes=1)
    assert advise(slow, 0.1).linger_ms == 10.0
    assert advise(slow, 0.001).target == 1, "never none"


def test_the_table_has_a_row_for_each_model() -> None:
    lines = table({"a": CPU, "b": CPU}, 0.1).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| a | 182.0, 11.0 | 178.0, 22.5 |")
    assert lines[2].endswith("| 1 | 0 ms | 18 |")


def test_the_plot_names_models_and_batch_sizes() -> None:
    plot = of_sweep({"a-model": CPU, "b-model": GPU})
    assert plot.startswith("<svg")
    for text in ("a-model", "b-model", ">64<", "images per second"):
        assert text in plot


def test_every_model_of_a_task_is_swept_once() -> None:
    assert list(TASK_OF.items())[:2] == [("efficientnet-lite0", "classify"), ("lenet5", "digits")]
    assert TASK_OF["mtcnn"] == "faces"
    assert EMBEDDER == "dlib-resnet"


def test_the_embedder_gets_images_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "face.jpg"), np.zeros((40, 60, 3), np.uint8))
    monkeypatch.setenv("LOADTEST_FACES", str(tmp_path))
    with job_of(EMBEDDER) as (work, pictures):
        assert work.models == [EMBEDDER]
        assert [cv2.imread(str(picture)).shape for picture in pictures] == [(CHIP, CHIP, 3)]
    with job_of("mtcnn") as (work, pictures):
        assert work.models == ["mtcnn"]
        assert [picture.name for picture in pictures] == ["face.jpg"]
