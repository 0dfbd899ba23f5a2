"""Every network of the catalogue on a GPU, at the precision that it is served at. Skipped without a GPU."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import registry
from models.errors import ModelError
from models.image import Image, Limits
from models.pipeline import Inputs, Pipeline
from models.weights import Catalogue, Store
from service.engine.engine import Engine
from service.engine.memory import MemoryBudget
from service.engine.runner import Runner, State
from service.engine.torch_executor import TorchExecutor
from service.settings import Precision
from service.telemetry.metrics import Metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def built(name: str) -> Pipeline:
    try:
        return registry.build(name, Catalogue(), Store())
    except ModelError as error:
        pytest.skip(str(error))


def noise(pipeline: Pipeline, count: int) -> list[Inputs]:
    """Smooth: of the frequencies that networks see."""
    rng, (height, width, channels) = np.random.default_rng(0), pipeline.shapes[0]
    coarse = rng.integers(0, 256, (count, 8, 8, channels), np.uint8)
    images = coarse.repeat(-(-height // 8), 1)[:, :height].repeat(-(-width // 8), 2)[:, :, :width]
    drawn = pipeline.preprocess(pipeline.rehearsal(pipeline.shapes[0])).inputs
    return [drawn, *((np.ascontiguousarray(image),) for image in images[1:])]


NAMES = [entry.name for entry in Catalogue()]
MOST = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 1e-1}


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.AUTO])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_answers_as_on_the_cpu(name: str, precision: Precision) -> None:
    pipeline = built(name)
    some = noise(pipeline, 3)
    wanted = TorchExecutor(pipeline, "cpu").run(some)
    executor = TorchExecutor(pipeline, "cuda", precision)
    for size in (4, 1):
        executor.warm(some[0], [size])
    assert all(graph is not None for graph in executor._network._graphs.values()), "a capture failed"
    found = executor.run(some)
    if name == "efficientdet-lite0":  # the best candidates in the order of their scores, which may change
        found, wanted = ((np.sort(one[1].max(2), 1),) for one in (found, wanted))
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == want.dtype
        assert np.isfinite(got).all()
        scale = max(1.0, float(np.abs(want.astype(np.float64)).max()))
        error = np.abs(got.astype(np.float64) - want).mean() / scale
        assert error < MOST[executor.precision.partition(",")[0]]


def test_stages_take_every_number_of_crops_in_the_same_memory() -> None:
    pipeline = built("mtcnn")
    executor = TorchExecutor(pipeline, "cuda", Precision.FLOAT32)
    executor.warm(pipeline.examples[0], [1])
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (512, 24, 24, 3)).astype(np.float32)
    wanted = pipeline.stages["rnet"].build()(torch.from_numpy(crops))[0].detach().numpy()

    def run(count: int) -> None:
        np.testing.assert_allclose(executor.stages["rnet"](crops[:count])[0], wanted[:count], atol=1e-3)

    run(512)
    before, device = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, torch.cuda.memory_reserved()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, rng.permutation(np.arange(1, 513)).tolist()))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 64 * 1024  # KiB
    assert torch.cuda.memory_reserved() < device + (256 << 20)


def test_a_capture_that_fails_leaves_a_device_that_computes() -> None:
    pipeline = built("lenet5")

    class Bad(torch.nn.Module):
        """Asks the host in the middle, which no graph can hold."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = images.float().mean(dim=(1, 2))
            return found + float(found.sum().item()) * 0

    pipeline.module = Bad().eval()
    executor = TorchExecutor(pipeline, "cuda", Precision.FLOAT32)
    some = noise(pipeline, 3)
    executor.warm(some[0], [4])
    assert list(executor._network._graphs.values()) == [None]
    (got,) = executor.run(some)
    np.testing.assert_allclose(got, [one[0].astype(np.float64).mean((0, 1)) for one in some], atol=1e-2)


def test_two_models_at_once_and_a_start_as_the_service_does() -> None:
    async def go() -> None:
        metrics, runners = Metrics(), []
        for name in ("lenet5", "yolo-person"):
            pipeline = built(name)
            executor = TorchExecutor(pipeline, "cuda")
            runners.append(Runner(pipeline, executor, metrics, max_batch=8, max_queue=200, slots=2))
        engine = Engine(runners, metrics, Limits(), 2, MemoryBudget(1 << 30))
        await engine.start()
        assert all(runner.state is State.READY for runner in runners)

        async def ask(runner: Runner, number: int) -> Any:
            height, width, _ = runner.pipeline.shapes[0]
            pixels: NDArray[np.uint8] = np.full((height, width, 3), number % 256, np.uint8)
            prepared = runner.pipeline.preprocess(Image(pixels, width, height))
            return (await runner.run(prepared)).result

        calls: Sequence[Any] = [ask(runner, number % 4) for number in range(120) for runner in runners]
        found = await asyncio.gather(*calls)
        for place, result in enumerate(found):
            first = found[place % 8]
            if hasattr(result, "scores"):
                np.testing.assert_allclose(result.scores, first.scores, atol=1e-3)
        assert await engine.drain(10)

    asyncio.run(go())
