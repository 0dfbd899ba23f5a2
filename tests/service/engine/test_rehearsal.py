"""What runs before a worker is ready: every model's warm-up, then batches as requests will bring them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import registry
from models.image import Limits
from models.pipeline import Inputs, eager
from models.weights import Catalogue, Store
from service.engine.engine import Engine
from service.engine.memory import MemoryBudget
from service.engine.runner import Runner, State
from service.engine.torch_executor import TorchExecutor
from service.telemetry.metrics import Metrics
from tests.service.doubles import MeanPipeline, item, make_ready


class Told(TorchExecutor):
    """Real arithmetic on what says that it is a GPU; tells what it is asked for, and how much fits."""

    def __init__(self, name: str, told: list[tuple[str, str, int]], *, fits: int = 99) -> None:
        super().__init__(MeanPipeline(), "cpu")
        self.device = "cuda:0"
        self._model, self._told, self.fits = name, told, fits
        self.both: threading.Barrier | None = None
        self.both_models: threading.Barrier | None = None

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        self._told.append((self._model, "warm", max(batches)))
        if self.both_models is not None:
            self.both_models.wait()

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        self._told.append((self._model, "run", len(items)))
        if len(items) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.both is not None:
            self.both.wait()
        return super().run(items)


def runner(executor: Told, name: str, metrics: Metrics) -> Runner:
    return Runner(MeanPipeline(name), executor, metrics, max_batch=4, max_queue=9, slots=2)


def test_full_batches_run_in_every_slot_after_the_last_warm_up() -> None:
    async def go() -> None:
        told: list[tuple[str, str, int]] = []
        metrics = Metrics()
        executors = {name: Told(name, told) for name in ("one", "two")}
        both_models = threading.Barrier(2, timeout=60)  # they are warmed at once
        for executor in executors.values():
            executor.both = threading.Barrier(2, timeout=60)  # both slots are in there at once
            executor.both_models = both_models
        runners = [runner(executor, name, metrics) for name, executor in executors.items()]
        engine = Engine(runners, metrics, Limits(), 0, MemoryBudget(1 << 20))
        await engine.start()
        assert engine.ready
        assert sorted(told[:4]) == [(name, "warm", size) for name in ("one", "two") for size in (1, 4)]
        assert told[4:] == [*[("one", "run", 4)] * 2, *[("two", "run", 4)] * 2]
        for executor in executors.values():
            executor.both = None
        assert await engine.drain(5)

    asyncio.run(go())


def test_a_full_batch_that_does_not_fit_beside_another_is_made_smaller() -> None:
    async def go() -> None:
        executor = Told("one", [], fits=2)
        only = runner(executor, "one", Metrics())
        await make_ready(only)
        assert only.state is State.READY
        done = await asyncio.gather(*(only.run(item(value, value)) for value in range(6)))
        assert max(one.batch_size for one in done) <= 2
        assert await only.drain(5)

    asyncio.run(go())


def test_the_drawing_that_a_face_detector_rehearses_with_takes_all_its_networks() -> None:
    pipeline = registry.build("mtcnn", Catalogue(), Store())
    called: list[str] = []

    def watched(name: str) -> Any:
        def run(crops: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
            called.append(name)
            return pipeline.stages[name].run(crops)

        return run

    served = pipeline.with_stages({name: watched(name) for name in pipeline.stages})
    prepared = served.preprocess(served.rehearsal(served.shapes[0]))
    outputs = eager(served.module, prepared.inputs[0][None])
    (faces,) = served.postprocess(outputs, [prepared.context])
    assert called == ["rnet", "onet"]
    assert len(faces.items) == 1
    assert faces.items[0].score > 0.99
