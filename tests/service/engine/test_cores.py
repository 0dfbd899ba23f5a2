"""Images under way are counted over all workers of a machine."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.pipeline import eager
from service.engine.cores import Cores
from service.engine.openvino_executor import OpenVINOExecutor
from service.engine.runner import Runner
from service.telemetry.metrics import Metrics
from tests.paths import ROOT
from tests.service.doubles import SHAPE, MeanPipeline, make_ready


def test_a_batch_of_all_images_that_are_under_way_has_the_machine(tmp_path: Path) -> None:
    first, second = (Cores(tmp_path / "cores", worker, 2) for worker in (1, 2))
    assert second.alone(0)
    first.enter()
    assert first.alone(1)
    assert not second.alone(0)
    second.enter()
    assert not first.alone(1)
    assert first.alone(2)
    first.leave()
    assert second.alone(1)


@pytest.mark.parametrize("fails", [False, True])
def test_an_image_is_counted_from_its_admission_to_its_result_or_error(fails: bool) -> None:
    async def go() -> None:
        cores, pipeline = Cores(None, 1, 2), MeanPipeline()
        executor = OpenVINOExecutor(pipeline, 1, cores=cores)
        runner = Runner(pipeline, executor, Metrics(), max_batch=2, max_queue=4, cores=cores)
        await make_ready(runner)
        with contextlib.suppress(RuntimeError), runner.admit():
            assert cores.alone(1)
            assert not cores.alone(0)
            if fails:
                raise RuntimeError
        assert cores.alone(0)
        await runner.drain(1)

    asyncio.run(go())


def test_a_worker_that_was_killed_with_an_image_counts_no_more_when_it_is_replaced(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from service.engine.cores import Cores\n"
        "Cores(Path(sys.argv[1]), 1, 2).enter(); os._exit(9)\n"
    )
    other = Cores(tmp_path / "cores", 2, 2)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "cores")], cwd=ROOT, check=False)
    assert not other.alone(0)
    Cores(tmp_path / "cores", 1, 2)
    assert other.alone(0)


def test_a_lone_batch_and_one_beside_others_have_the_same_answer(tmp_path: Path) -> None:
    cores = Cores(tmp_path / "cores", 1, 2)
    executor = OpenVINOExecutor(MeanPipeline(), 1, cores=cores)
    items = [(np.full(SHAPE, value, np.uint8),) for value in (3, 200)]
    executor.warm(items[0], [1, 2])
    (alone, _) = executor.run(items)
    other = Cores(tmp_path / "cores", 2, 2)
    for _ in range(3):
        other.enter()
    (beside, _) = executor.run(items)
    np.testing.assert_array_equal(alone, beside)
    np.testing.assert_array_equal(alone, eager(MeanPipeline().module, np.stack([a for (a,) in items]))[0])
