"""The CUDA executor against the CPU's; skipped where there is no GPU."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch

from models import registry
from models.pipeline import Inputs
from models.weights import Catalogue, Store
from service.engine.torch_executor import TorchExecutor
from service.settings import Precision
from tests.service.doubles import SHAPE, MeanPipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def pictures(count: int, shape: tuple[int, int, int]) -> list[Inputs]:
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 256, shape, dtype=np.uint8),) for _ in range(count)]


@pytest.mark.parametrize("capture", [True, False])
def test_graphs_pad_to_their_size_and_results_outlive_the_next_replay(capture: bool) -> None:
    pipeline = MeanPipeline()
    pipeline.exportable = capture
    executor = TorchExecutor(pipeline, "cuda", Precision.FLOAT32)
    executor.warm(pictures(1, SHAPE)[0], [1, 2, 4])
    some = pictures(3, SHAPE)
    first = executor.run(some)[0]
    executor.run(pictures(4, SHAPE)[::-1])
    expected = np.stack([image for (image,) in some]).astype(np.float32).mean(axis=(1, 2))
    assert first.shape == (3, 3)
    np.testing.assert_allclose(first, expected, atol=1e-3)
    assert executor.run(pictures(9, SHAPE))[0].shape == (9, 3)  # more than any graph takes


@pytest.mark.parametrize(("precision", "tolerance"), [(Precision.FLOAT32, 1e-3), (Precision.BFLOAT16, 5e-2)])
def test_probabilities_agree_with_the_cpu(precision: Precision, tolerance: float) -> None:
    lite = registry.build("efficientnet-lite0", Catalogue(), Store())
    some = pictures(5, lite.shapes[0])
    expected = TorchExecutor(lite, "cpu").run(some)[0]
    executor = TorchExecutor(lite, "cuda", precision)
    executor.warm(lite.examples[0], [8])
    assert np.abs(executor.run(some)[0] - expected).max() < tolerance


def test_registered_memory_is_read_where_it_lies() -> None:
    executor = TorchExecutor(MeanPipeline(), "cuda", Precision.FLOAT32)
    executor.warm(pictures(1, SHAPE)[0], [1, 2, 4])
    runtime = executor._lanes.runtime  # type: ignore[union-attr]
    memory = memoryview(mmap.mmap(-1, 4 * mmap.PAGESIZE))
    rooms = [memory[start : start + mmap.PAGESIZE] for start in range(0, len(memory), mmap.PAGESIZE)]
    rows = [np.frombuffer(room, np.uint8, int(np.prod(SHAPE))).reshape(SHAPE) for room in rooms]
    assert not runtime.is_direct(rows[0])
    for room in rooms:
        runtime.register(room)
    assert all(runtime.is_direct(row) for row in rows)
    rng = np.random.default_rng(0)
    for _ in range(50):
        for row in rows:
            row[:] = rng.integers(0, 256, SHAPE, dtype=np.uint8)
        wanted = np.stack(rows).astype(np.float32).mean(axis=(1, 2))
        np.testing.assert_allclose(executor.run([(row,) for row in rows])[0], wanted, atol=1e-3)
    for room in rooms:
        runtime.unregister(room)
    assert not runtime.is_direct(rows[0])
