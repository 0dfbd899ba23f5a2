"""A device that runs out of memory: halves, a clear error for one image alone, a limit that is remembered."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.pipeline import Inputs
from service.engine.executor import is_device_lost, is_out_of_memory
from service.engine.runner import Runner, State
from service.engine.torch_executor import TorchExecutor
from service.errors import NotReady, OutOfMemory, problem_of
from service.telemetry.metrics import Metrics
from tests.service.doubles import MeanPipeline, item, make_ready


class Tight(TorchExecutor):
    """Real arithmetic in a memory that holds so many images.

    Attributes:
        fits: most images of a run.
        warmable: most images of a warm-up.
        sizes: of the runs, in order.
        activations: what the runs that failed had in memory.
    """

    def __init__(self, fits: int, warmable: int = 99, *, stays: str = "CUDA out of memory") -> None:
        super().__init__(MeanPipeline(), "cpu")
        self.fits, self.warmable, self.stays = fits, warmable, stays
        self.sizes: list[int] = []
        self.activations: list[weakref.ref[Tensor]] = []
        self.held: list[int] = []

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        if max(batches) > self.warmable:
            raise torch.OutOfMemoryError(self.stays)
        super().warm(example, batches)

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        self.held.append(sum(activation() is not None for activation in self.activations))
        self.sizes.append(len(items))
        if len(items) > self.fits:
            activation = torch.from_numpy(np.stack([image for (image,) in items])).float()
            self.activations.append(weakref.ref(activation))
            raise torch.OutOfMemoryError(self.stays)
        return super().run(items)


def runner_of(executor: Tight, max_batch: int = 8) -> Runner:
    return Runner(MeanPipeline(), executor, Metrics(), max_batch=max_batch, max_queue=100)


async def started(executor: Tight, max_batch: int = 8) -> Runner:
    runner = runner_of(executor, max_batch)
    await make_ready(runner)
    executor.sizes.clear()
    executor.held.clear()
    return runner


def test_a_batch_that_does_not_fit_is_halved_and_every_image_is_answered() -> None:
    async def go() -> None:
        executor = Tight(fits=8)
        runner = await started(executor)
        executor.fits = 2
        done = await asyncio.gather(*(runner.run(item(value, value)) for value in range(8)))
        assert [one.result for one in done] == [(value, float(value)) for value in range(8)]
        assert executor.sizes == [8, 4, 2, 2, 4, 2, 2]
        assert runner.state is State.READY
        executor.sizes.clear()
        await asyncio.gather(*(runner.run(item(value, value)) for value in range(8)))
        assert max(executor.sizes) == 2  # remembered: none of them failed
        assert await runner.drain(5)

    asyncio.run(go())


def test_what_a_failed_run_held_is_let_go_before_its_halves_are_tried() -> None:
    async def go() -> None:
        executor = Tight(fits=8)
        runner = await started(executor)
        executor.fits = 1
        await asyncio.gather(*(runner.run(item(value, value)) for value in range(4)))
        assert executor.sizes == [4, 2, 1, 1, 2, 1, 1]
        assert executor.held == [0] * 7
        await runner.drain(5)

    asyncio.run(go())


def test_one_image_that_does_not_fit_gets_a_row_of_the_table_and_the_runner_lives_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def go() -> None:
        executor = Tight(fits=8)
        runner = await started(executor)
        executor.fits = 0
        with pytest.raises(OutOfMemory) as refused, runner.admit():
            await runner.run(item(1))
        assert [activation() for activation in executor.activations] == [None]  # though the error is here
        problem = problem_of(refused.value)
        assert (problem.kind.code, problem.kind.http, problem.kind.grpc) == (
            "out_of_memory",
            503,
            "RESOURCE_EXHAUSTED",
        )
        assert problem.detail == "one image alone does not fit into the memory that mean has left"
        assert problem.retry_after == 1.0
        executor.fits = 8
        with runner.admit():
            assert (await runner.run(item(7, "x"))).result == ("x", 7.0)
        await runner.drain(5)

    with caplog.at_level(logging.WARNING, "service.engine.runner"):
        asyncio.run(go())
    assert [record.getMessage() for record in caplog.records] == ["mean: a batch of 1 ran out of memory"]


@pytest.mark.parametrize(("warmable", "most"), [(7, 4), (3, 2), (1, 1), (12, 8)])
def test_a_warm_up_finds_the_largest_batch_that_fits(
    warmable: int, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        executor = Tight(fits=8, warmable=warmable)
        runner = await started(executor)
        assert runner.state is State.READY
        done = await asyncio.gather(*(runner.run(item(value, value)) for value in range(8)))
        assert [one.result[0] for one in done] == list(range(8))
        assert max(executor.sizes) == most
        assert await runner.drain(5)

    with caplog.at_level(logging.WARNING, "service.engine.runner"):
        asyncio.run(go())
    if most < 8:
        assert caplog.records[-1].getMessage().endswith(f"{most} is the most from now on")


def test_a_model_that_does_not_fit_at_all_fails_the_start() -> None:
    async def go() -> None:
        runner = runner_of(Tight(fits=8, warmable=0))
        with pytest.raises(torch.OutOfMemoryError):
            await make_ready(runner)
        with pytest.raises(NotReady, match="failed"), runner.admit():
            pass

    asyncio.run(go())


def test_libraries_that_fail_to_allocate_have_lost_no_device() -> None:
    for said in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
    ):
        assert is_out_of_memory(RuntimeError(said))
        assert not is_device_lost(RuntimeError(said))
    assert is_out_of_memory(OutOfMemory("one image"))
