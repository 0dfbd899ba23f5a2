"""The executor of a GPU over a machine that keeps CUDA's rules: sizes, padding, captures that fail, types."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.faces.mtcnn import pipeline as mtcnn
from models.pipeline import Inputs, Stage
from service.engine.cuda import Lanes
from service.engine.torch_executor import STAGE_SIZES, TorchExecutor, choose
from service.settings import Precision
from tests.service.doubles import SHAPE, MeanPipeline
from tests.service.engine.streams import Graph, Machine, Stream


class Counted(nn.Module):
    """uint8 [N, 8, 8, 3] -> mean [N, 3]; remembers the batches that it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return images.float().mean(dim=(1, 2))


class Counting(MeanPipeline):
    def __init__(self) -> None:
        super().__init__(module=Counted())
        self.stages = {"small": Stage(Counted, (6, 6, 3))}


class Failing(Machine):
    """Cannot capture: the network's work is allowed, and the end of the capture fails."""

    released = 0

    @contextlib.contextmanager
    def capture(self, stream: Stream, pool: Any) -> Iterator[Graph]:
        with super().capture(stream, pool) as graph:
            yield graph
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def release(self) -> None:
        self.released += 1


def items(count: int, seed: int = 0) -> list[Inputs]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 255, SHAPE, np.uint8),) for _ in range(count)]


def means(images: Sequence[Inputs]) -> NDArray[np.float32]:
    return np.stack([image for (image,) in images]).astype(np.float32).mean((1, 2))


def test_a_batch_takes_the_smallest_graph_that_holds_it() -> None:
    with Machine() as machine:
        pipeline = Counting()
        executor = TorchExecutor(pipeline, "cpu", Precision.FLOAT32, runtime=machine)
        for size in (4, 2, 1):
            executor.warm(pipeline.examples[0], [size])
        module: Any = pipeline.module
        module.sizes.clear()
        for count in (1, 2, 3, 4):
            some = items(count, count)
            np.testing.assert_allclose(executor.run(some)[0], means(some), rtol=1e-6)
        assert module.sizes == []  # all were replayed
        some = items(9)
        np.testing.assert_allclose(executor.run(some)[0], means(some), rtol=1e-6)
        assert module.sizes == [9]


def test_stages_are_ready_before_the_first_request_and_see_few_sizes() -> None:
    assert STAGE_SIZES[0] == mtcnn._CHUNK
    with Machine() as machine:
        pipeline = Counting()
        executor = TorchExecutor(pipeline, "cpu", Precision.FLOAT32, runtime=machine)
        executor.warm(pipeline.examples[0], [2])
        stage: Any = pipeline.stages["small"].module
        assert set(stage.sizes) == set(STAGE_SIZES)
        stage.sizes.clear()
        rng = np.random.default_rng(0)
        for count in (1, 31, 32, 33, 500, 512):
            crops = rng.random((count, 6, 6, 3), dtype=np.float32)
            (found,) = executor.stages["small"](crops)
            np.testing.assert_allclose(found, crops.mean((1, 2)), rtol=1e-5)
        assert stage.sizes == []


def test_a_size_that_cannot_be_captured_runs_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    with Failing() as machine, caplog.at_level(logging.WARNING, "service.engine.torch_executor"):
        pipeline = Counting()
        executor = TorchExecutor(pipeline, "cpu", Precision.FLOAT32, runtime=machine)
        executor.warm(pipeline.examples[0], [4])
        module: Any = pipeline.module
        module.sizes.clear()
        some = items(3)
        np.testing.assert_allclose(executor.run(some)[0], means(some), rtol=1e-6)
        assert module.sizes == [4]  # padded: cuDNN keeps a plan for every size
    assert machine.released == 1 + len(STAGE_SIZES)
    assert (
        "mean: a batch of 4 could not be captured and runs without a CUDA graph: CUDA error"
        in caplog.records[-1].getMessage()
    )


def test_memory_that_does_not_suffice_without_a_graph_is_no_matter_of_captures() -> None:
    class Hungry(Counted):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    with Machine() as machine:
        executor = TorchExecutor(MeanPipeline(module=Hungry()), "cpu", Precision.FLOAT32, runtime=machine)
        with pytest.raises(torch.OutOfMemoryError):
            executor.warm(items(1)[0], [4])


def test_what_branches_on_data_is_not_captured() -> None:
    with Machine() as machine:
        pipeline = MeanPipeline(module=Counted())
        pipeline.exportable = False
        executor = TorchExecutor(pipeline, "cpu", Precision.FLOAT32, runtime=machine)
        executor.warm(items(1)[0], [4])
        some = items(3)
        np.testing.assert_allclose(executor.run(some)[0], means(some), rtol=1e-6)
        module: Any = pipeline.module
        assert module.sizes == [4, 3]


def test_work_is_put_on_the_streams_in_turn() -> None:
    """Of two threads neither comes between the other's copy to a graph's inputs and its replay."""
    held: list[bool] = []

    class Watched(Graph):
        def replay(self) -> None:
            held.append(lanes.turn.locked())
            super().replay()

    with Machine() as machine:
        executor = TorchExecutor(MeanPipeline(), "cpu", Precision.FLOAT32, runtime=machine)
        lanes: Lanes = executor._lanes  # type: ignore[assignment]
        executor.warm(items(1)[0], [2])
        for graph in executor._network._graphs.values():
            assert graph is not None
            graph._graph.__class__ = Watched
        executor.run(items(2))
    assert held == [True]


T4, A10, H100 = (7, 5), (8, 6), (9, 0)


@pytest.mark.parametrize(
    ("asked", "passed", "capability", "chosen"),
    [
        ("auto", ("int8", "bfloat16", "float16"), T4, "float16"),
        ("auto", ("int8", "bfloat16", "float16"), H100, "float16"),
        ("auto", ("bfloat16",), H100, "float32"),  # the processor's gates are no GPU's
        ("auto", ("float16",), (5, 2), "float32"),
        ("int8", ("int8", "float16"), H100, "float16"),
        ("float16", (), A10, "float16"),
        ("float32", ("float16",), H100, "float32"),
        ("bfloat16", (), A10, "bfloat16"),
    ],
)
def test_the_precision_of_a_gpu(
    asked: str, passed: tuple[str, ...], capability: tuple[int, int], chosen: str
) -> None:
    assert choose(Precision(asked), passed, capability) == chosen


def test_a_gpu_without_convolutions_in_bfloat16_refuses_it() -> None:
    with pytest.raises(ValueError, match=r"compute capability 8.0 or later, this one has 7.5: use auto"):
        choose(Precision.BFLOAT16, (), T4)


def test_graphs_may_be_of_what_a_compiler_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}

    def compiler(module: nn.Module, **given: Any) -> Any:
        options.update(given)
        return lambda images: module(images) + 1

    monkeypatch.setattr(torch, "compile", compiler)
    with Machine() as machine:
        executor = TorchExecutor(
            MeanPipeline(module=Counted()), "cpu", Precision.FLOAT32, compiled=True, runtime=machine
        )
        executor.warm(items(1)[0], [2])
        for count, more in ((1, 1), (2, 1), (3, 0)):  # a batch that no graph holds is not compiled for
            some = items(count)
            np.testing.assert_allclose(executor.run(some)[0], means(some) + more, rtol=1e-6)
    # a mode with graphs of its own, which belong to one thread, would answer others wrongly
    assert options == {"dynamic": False}
