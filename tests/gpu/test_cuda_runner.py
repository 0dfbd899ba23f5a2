"""The whole way of a picture on a GPU: two slots share one device, memory runs out, results are the CPU's.

Skipped where there is no GPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import registry
from models.image import decode
from models.pipeline import Inputs, Pipeline
from models.weights import Catalogue, Store
from service.engine.executor import Executor
from service.engine.runner import Runner, State
from service.engine.torch_executor import TorchExecutor
from service.settings import Precision
from service.telemetry.metrics import Metrics
from tests.paths import SHARED, needs_shared
from tests.service.doubles import SHAPE, Mean, MeanPipeline, item, make_ready

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

MIB = 1024 * 1024


def pictures(count: int, seed: int) -> list[Inputs]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 256, SHAPE, dtype=np.uint8),) for _ in range(count)]


def test_graphs_that_share_their_memory_do_not_disturb_each_other() -> None:
    executor = TorchExecutor(MeanPipeline(), "cuda", Precision.FLOAT32)
    executor.warm(pictures(1, 0)[0], [1, 2, 4, 8])

    def check(seed: int) -> bool:
        some = pictures(1 + seed % 9, seed)  # 9 are more than any graph takes
        (mean, _) = executor.run(some)
        expected = np.stack([image for (image,) in some]).astype(np.float32).mean(axis=(1, 2))
        return mean.shape == expected.shape and np.allclose(mean, expected, atol=1e-3)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(check, range(400)))


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_runner_gives_each_picture_its_own_result(slots: int) -> None:
    async def go() -> None:
        pipeline = MeanPipeline()
        executor = TorchExecutor(pipeline, "cuda", Precision.FLOAT32)
        runner = Runner(pipeline, executor, Metrics(), max_batch=8, max_queue=1000, slots=slots)
        await make_ready(runner)
        done = await asyncio.gather(*(runner.run(item(value % 256, value)) for value in range(500)))
        assert [one.result[0] for one in done] == list(range(500))
        assert [one.result[1] for one in done] == pytest.approx([value % 256 for value in range(500)])
        assert await runner.drain(10)

    asyncio.run(go())


class Hungry(Mean):
    """Takes 256 MiB for each picture."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, count = super().forward(images)
        scratch = torch.zeros(len(images), 64 * MIB, device=images.device)
        return mean + scratch[:, :1], count


@pytest.fixture
def small_device() -> Iterator[None]:
    """This process may have 1.5 GiB of the device."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1536 * MIB / total, 0)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("small_device")
def test_a_batch_that_does_not_fit_into_the_device_is_done_in_parts() -> None:
    async def go() -> None:
        pipeline = MeanPipeline()
        pipeline.module = Hungry().eval()
        pipeline.exportable = False
        executor = TorchExecutor(pipeline, "cuda", Precision.FLOAT32)
        runner = Runner(pipeline, executor, Metrics(), max_batch=16, max_queue=100)
        await make_ready(runner)  # finds that 16 and 8 do not fit
        ballast = torch.zeros(640 * MIB, dtype=torch.uint8, device="cuda")  # now 4 do not either
        done = await asyncio.gather(*(runner.run(item(value, value)) for value in range(16)))
        assert [one.result[0] for one in done] == list(range(16))
        assert max(one.batch_size for one in done) < 4
        assert runner.state is State.READY
        del ballast
        assert await runner.drain(10)

    asyncio.run(go())


def results(pipeline: Pipeline, executor: Executor, data: bytes) -> Any:
    image = decode(data, min_side=pipeline.min_side)
    prepared = [pipeline.preprocess(image)] * 3
    executor.warm(prepared[0].inputs, [1, 2, 4])
    outputs = executor.run([one.inputs for one in prepared])
    return pipeline.postprocess(outputs, [one.context for one in prepared])


@needs_shared
def test_boxes_found_and_sifted_on_a_device_are_those_of_the_cpu() -> None:
    data = (SHARED / "data" / "photos" / "dog.jpg").read_bytes()
    people = sorted((SHARED / "data" / "faces").rglob("*.jpg"))[0].read_bytes()
    for picture in (data, people):
        found = []
        for device in ("cpu", "cuda"):
            pipeline = registry.build("yolo-person", Catalogue(), Store())
            executor = TorchExecutor(pipeline, device, Precision.FLOAT32)
            found.append(results(pipeline, executor, picture)[2].items)
        on_cpu, on_gpu = found
        sure = [one for one in on_cpu if one.score > 0.3]
        assert len(sure) == len([one for one in on_gpu if one.score > 0.3])
        for one, other in zip(sure, on_gpu, strict=False):
            assert other.score == pytest.approx(one.score, abs=0.01)
            assert other.box == pytest.approx(one.box, abs=2.0)
