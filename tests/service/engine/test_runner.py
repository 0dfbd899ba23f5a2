"""The runner on a real executor: results go to their owners, failures stay with theirs, queues have ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from numpy.typing import NDArray

from models.pipeline import Inputs, Prepared
from service.engine.runner import Runner, State
from service.engine.torch_executor import TorchExecutor
from service.errors import NotReady, Overloaded
from service.telemetry.metrics import Metrics
from tests.service.doubles import MeanPipeline, item, make_ready


def with_runner(test: Callable[[Runner], Coroutine[Any, Any, None]], **limits: int) -> Metrics:
    metrics = Metrics()

    async def go() -> None:
        pipeline = MeanPipeline()
        executor = TorchExecutor(pipeline, "cpu")
        runner = Runner(pipeline, executor, metrics, **({"max_batch": 8, "max_queue": 100} | limits))
        await make_ready(runner)
        try:
            await test(runner)
        finally:
            await runner.drain(5)

    asyncio.run(go())
    return metrics


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, {"model": "mean"} | labels) or 0.0


def test_each_gets_its_own_result_and_batches_form() -> None:
    async def test(runner: Runner) -> None:
        done = await asyncio.gather(*(runner.run(item(value, value)) for value in range(50)))
        assert [one.result for one in done] == [(value, float(value)) for value in range(50)]
        assert max(one.batch_size for one in done) > 1

    metrics = with_runner(test)
    assert sample(metrics, "lynceus_batch_size_sum") == 50
    assert sample(metrics, "lynceus_stage_seconds_count", stage="queue") == 50
    assert sample(metrics, "lynceus_queue_depth") == 0
    assert sample(metrics, "lynceus_inflight_batches") == 0


def test_a_poison_picture_fails_alone() -> None:
    async def test(runner: Runner) -> None:
        items: list[Prepared] = [item(value, "poison" if value == 3 else value) for value in range(8)]
        results = await asyncio.gather(*(runner.run(one) for one in items), return_exceptions=True)
        failed = [index for index, result in enumerate(results) if isinstance(result, BaseException)]
        assert failed == [3]
        assert isinstance(results[3], ValueError)

    with_runner(test)


def test_admission_refuses_before_any_work() -> None:
    async def test(runner: Runner) -> None:
        with runner.admit(), runner.admit(), runner.admit():
            with pytest.raises(Overloaded) as refused, runner.admit():
                pass
            assert refused.value.retry_after is not None
            assert refused.value.retry_after > 0
        with runner.admit():
            pass

    metrics = with_runner(test, max_batch=1, max_queue=2)
    assert sample(metrics, "lynceus_dropped_total", reason="full") == 1


def test_not_ready_before_the_start_and_after_the_drain() -> None:
    async def go() -> None:
        pipeline = MeanPipeline()
        runner = Runner(pipeline, TorchExecutor(pipeline, "cpu"), Metrics(), max_batch=2, max_queue=2)
        with pytest.raises(NotReady, match="starting"), runner.admit():
            pass
        await make_ready(runner)
        assert await runner.drain(1)
        with pytest.raises(NotReady, match="draining"), runner.admit():
            pass

    asyncio.run(go())


def test_a_lost_device_ends_the_runner_not_the_process() -> None:
    class Lost(TorchExecutor):
        lost = False

        def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
            if self.lost:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().run(items)

    async def go() -> None:
        pipeline = MeanPipeline()
        executor = Lost(pipeline, "cpu")
        runner = Runner(pipeline, executor, Metrics(), max_batch=2, max_queue=2)
        await make_ready(runner)
        executor.lost = True
        with pytest.raises(RuntimeError, match="illegal"):
            await runner.run(item(1))
        with pytest.raises(NotReady, match="failed"), runner.admit():
            pass

    asyncio.run(go())


def test_a_warm_up_that_fails_is_said_and_the_runner_never_ready() -> None:
    class Broken(TorchExecutor):
        def warm(self, *_: object) -> None:
            raise RuntimeError("no such device")

    async def go() -> None:
        pipeline = MeanPipeline()
        runner = Runner(pipeline, Broken(pipeline, "cpu"), Metrics(), max_batch=2, max_queue=2)
        with pytest.raises(RuntimeError, match="no such device"):
            await make_ready(runner)
        assert runner.state is State.FAILED
        with pytest.raises(NotReady, match="failed"), runner.admit():
            pass

    asyncio.run(go())
