"""PyTorch as an executor: see `service/engine/executor.py`, which chooses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.pipeline import Inputs, RunStage, Stage
from service.engine.executor import Shapes, shapes_of
from service.settings import Precision


class TorchExecutor:
    """PyTorch as it is, on a CPU or a GPU.

    On a GPU: channels_last, autocast to bfloat16 or float16, and a CUDA graph per batch size that was warmed;
    a batch is padded up to the next such size, and larger ones run eagerly. Inputs go up, and outputs come
    back, through pinned memory on streams of their own, so that with two slots the next batch crosses the
    bus while one computes.

    Args:
        module: the network, in eval mode.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of the arithmetic.
        capture: whether the module can be captured, that is, does not branch on data.
        stages: the networks that the pipeline calls directly; in float32.
    """

    name: str = "torch"

    def __init__(
        self,
        module: nn.Module,
        device: str,
        precision: Precision = Precision.AUTO,
        *,
        capture: bool = True,
        stages: Mapping[str, Stage] = MappingProxyType({}),
    ) -> None:
        self._device = torch.device(device)
        self.device = str(self._device)
        cuda = self._device.type == "cuda"
        if precision in (Precision.AUTO, Precision.INT8):
            precision = Precision.BFLOAT16 if cuda else Precision.FLOAT32
        self.precision = precision.value
        self._dtype: torch.dtype = getattr(torch, precision.value)
        self._module = module.to(self._device).eval()
        self._cuda = _Cuda(self._device) if cuda else None
        self._capture = capture
        self._graphs: dict[tuple[int, Shapes], _Graph] = {}
        if cuda:
            self._module.to(memory_format=torch.channels_last)
        self.stages: Mapping[str, RunStage] = {
            name: partial(self._stage, stage.module.to(self._device).eval()) for name, stage in stages.items()
        }

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        for size in sorted(batches, reverse=True):  # the others reuse the largest one's memory
            if self._cuda is None or not self._capture:
                self.run([example] * size)
            else:
                with torch.inference_mode(), self._cuda.turn:
                    self._graphs[size, shapes_of(example)] = _Graph(self._eager, size, example, self._cuda)

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        columns: list[Sequence[NDArray[Any]]] = list(zip(*items, strict=True))
        shapes = shapes_of(items[0])
        sizes = [size for size, known in self._graphs if known == shapes and size >= len(items)]
        if sizes:
            return self._run(self._graphs[min(sizes), shapes].replay, columns)
        return self._run(self._eager, columns)

    def _stage(self, module: nn.Module, items: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return self._run(lambda batch: _as_tuple(module(*batch)), [items])

    def _run(
        self, forward: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], columns: Sequence[Any]
    ) -> tuple[NDArray[Any], ...]:
        """`columns`: each input of the batch, as an array [N, ...] or N arrays."""
        with torch.inference_mode():
            if self._cuda is not None:
                return self._cuda.run(forward, columns)
            outputs = forward([torch.from_numpy(np.ascontiguousarray(column)) for column in columns])
            return tuple(_widened(one).numpy() for one in outputs)

    def _eager(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.autocast(
            self._device.type, self._dtype, enabled=self._dtype != torch.float32, cache_enabled=False
        ):
            return _as_tuple(self._module(*batch))


class _Cuda:
    """A GPU's streams, and the memory that an executor's graphs share.

    Attributes:
        compute_stream: where batches run, one after the other.
        pool: the graphs' memory.
        turn: held while a batch is put on the streams: the graphs share their memory and their inputs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.compute_stream = torch.cuda.Stream(device)
        self._up_stream = torch.cuda.Stream(device)
        self._down_stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.turn = threading.Lock()
        self._inputs: dict[Shapes, list[Tensor]] = {}

    def inputs(self, size: int, example: Inputs) -> list[Tensor]:
        """Where graphs of one shape of item read: Tensors [size, ...], the same memory for all sizes."""
        shapes = shapes_of(example)
        held = self._inputs.get(shapes)
        if held is None or len(held[0]) < size:
            held = self._inputs[shapes] = [
                torch.zeros((size, *one.shape), dtype=_dtype(one), device=self._device) for one in example
            ]
        return [one[:size] for one in held]

    def run(
        self, forward: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], columns: Sequence[Any]
    ) -> tuple[NDArray[Any], ...]:
        """Takes a batch up, runs it, and waits for its outputs on the host."""
        batch = self._upload(columns)
        with self.turn:
            with torch.cuda.stream(self.compute_stream):
                outputs = forward(batch)
                done = self.compute_stream.record_event()
            with torch.cuda.stream(self._down_stream):
                self._down_stream.wait_event(done)
                host = [self._download(output) for output in outputs]
                arrived = self._down_stream.record_event()
        arrived.synchronize()  # outside the turn, so that the next batch queues up behind this one
        return tuple(one.numpy() for one in host)

    def _upload(self, columns: Sequence[Any]) -> list[Tensor]:
        """The inputs, each [N, ...]; what `compute_stream` runs next waits for the copy, the host does not.

        PyTorch's allocator keeps pinned memory, and gives it out again only when the copy is done.
        """
        batch = []
        for column in columns:
            staging = torch.empty((len(column), *column[0].shape), dtype=_dtype(column[0]), pin_memory=True)
            np.stack(column, out=staging.numpy())
            with torch.cuda.stream(self._up_stream):
                batch.append(staging.to(self._device, non_blocking=True))
            batch[-1].record_stream(self.compute_stream)
        self.compute_stream.wait_event(self._up_stream.record_event())
        return batch

    def _download(self, output: Tensor) -> Tensor:
        """The output on its way to pinned memory, which lives as long as the array that is made of it."""
        output.record_stream(self._down_stream)
        output = _widened(output)
        return torch.empty(output.shape, dtype=output.dtype, pin_memory=True).copy_(output, non_blocking=True)


class _Graph:
    """A captured forward pass for one shape of batch.

    Graphs of one pool share their memory (the later ones take what the first and largest left), so each
    replay's outputs are copied before the next.
    """

    def __init__(self, forward: Any, size: int, example: Inputs, cuda: _Cuda) -> None:
        self._inputs = cuda.inputs(size, example)
        torch.cuda.synchronize(self._inputs[0].device)  # they were zeroed on another stream
        with torch.cuda.stream(cuda.compute_stream):
            for _ in range(2):  # the allocator and cuDNN's choices settle before the capture
                forward(self._inputs)
        cuda.compute_stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=cuda.pool, stream=cuda.compute_stream):
            self._outputs = forward(self._inputs)

    def replay(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for held, given in zip(self._inputs, batch, strict=True):
            held[: len(given)].copy_(given)
        self._graph.replay()
        return tuple(output[: len(batch[0])].clone() for output in self._outputs)


def _dtype(array: NDArray[Any]) -> torch.dtype:
    return torch.from_numpy(array[:0]).dtype


def _as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _widened(output: Tensor) -> Tensor:
    """NumPy has no bfloat16, and what reads outputs expects float32."""
    return output.float() if output.is_floating_point() else output
