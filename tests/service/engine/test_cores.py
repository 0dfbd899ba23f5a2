"""Batches are counted over all workers of a machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from models.pipeline import eager
from service.engine.cores import Cores
from service.engine.openvino_executor import OpenVINOExecutor
from tests.paths import ROOT
from tests.service.doubles import SHAPE, MeanPipeline


def idle(cores: Cores) -> bool:
    with cores.claim() as found:
        return found


def test_the_first_batch_finds_the_machine_idle_and_no_other(tmp_path: Path) -> None:
    first, second = (Cores(tmp_path / "cores", worker, 2) for worker in (1, 2))
    with first.claim() as alone:
        assert alone
        assert not idle(first)
        assert not idle(second)
    assert idle(second)
    assert idle(first)


def test_a_failed_batch_counts_no_more() -> None:
    cores = Cores(None, 1, 2)
    with pytest.raises(RuntimeError), cores.claim():
        raise RuntimeError
    assert idle(cores)


def test_threads_of_one_worker_lose_no_count() -> None:
    cores = Cores(None, 1, 2)
    threads = [threading.Thread(target=lambda: [idle(cores) for _ in range(300)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert idle(cores)


def test_a_worker_that_was_killed_in_a_batch_counts_no_more_when_it_is_replaced(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from service.engine.cores import Cores\n"
        "claim = Cores(Path(sys.argv[1]), 1, 2).claim(); claim.__enter__(); os._exit(9)\n"
    )
    other = Cores(tmp_path / "cores", 2, 2)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "cores")], cwd=ROOT, check=False)
    assert not idle(other)
    replacing = Cores(tmp_path / "cores", 1, 2)
    assert idle(other)
    assert idle(replacing)


def test_a_lone_batch_and_one_beside_others_have_the_same_answer(tmp_path: Path) -> None:
    cores = Cores(tmp_path / "cores", 1, 2)
    executor = OpenVINOExecutor(MeanPipeline(), 1, cores=cores)
    items = [(np.full(SHAPE, value, np.uint8),) for value in (3, 200)]
    executor.warm(items[0], [1, 2])
    (alone, _) = executor.run(items)
    with Cores(tmp_path / "cores", 2, 2).claim():
        (beside, _) = executor.run(items)
    np.testing.assert_array_equal(alone, beside)
    np.testing.assert_array_equal(alone, eager(MeanPipeline().module, np.stack([a for (a,) in items]))[0])
