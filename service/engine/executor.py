"""How a module runs on a stacked batch: Torch (CPU or CUDA, with CUDA graphs) or OpenVINO (CPU).

An executor takes items whose inputs have the same shapes and gives tensors, on its device, whose first
dimension is the batch. It is used from threads of its runner, never from the event loop.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.pipeline import Inputs, Pipeline, RunStage
from service.engine.openvino_executor import OpenVINOExecutor, Shapes, shapes_of, stack
from service.settings import ExecutorKind, Precision, Settings


class Executor(Protocol):
    """Runs one module.

    Attributes:
        name: ``torch`` or ``openvino``, for model cards and metrics.
        device: ``cpu`` or ``cuda:0``.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        stages: what it compiled of the pipeline's stages, for `Pipeline.with_stages`.
    """

    name: str
    device: str
    precision: str
    stages: Mapping[str, RunStage]

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        """Prepares for batches of these sizes of items like this one and runs each once."""
        ...

    def run(self, items: Sequence[Inputs]) -> tuple[Tensor, ...]:
        """Runs items whose inputs have the same shapes as one batch; outputs have the batch first."""
        ...

    def scope(self) -> AbstractContextManager[None]:
        """Where `run` and the work on its outputs belong: no gradients, the executor's stream."""
        ...


class TorchExecutor:
    """PyTorch as it is, on a CPU or a GPU.

    On a GPU: channels_last, autocast to bfloat16 or float16, and a CUDA graph per batch size that was warmed;
    a batch is padded up to the next such size, and larger ones run eagerly. Inputs go up from pinned memory
    on a stream of their own, so that with two slots the next batch crosses the bus while one computes. Work
    on the outputs (`scope`) has a stream for each thread, so that it waits for its own batch alone.

    Args:
        module: the network, in eval mode.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of the arithmetic.
        capture: whether the module can be captured, that is, does not branch on data.
    """

    name: str = "torch"
    stages: Mapping[str, RunStage] = MappingProxyType({})

    def __init__(
        self,
        module: nn.Module,
        device: str,
        precision: Precision = Precision.AUTO,
        *,
        capture: bool = True,
    ) -> None:
        self._device = torch.device(device)
        self.device = str(self._device)
        cuda = self._device.type == "cuda"
        if precision is Precision.AUTO:
            precision = Precision.BFLOAT16 if cuda else Precision.FLOAT32
        self.precision = precision.value
        self._dtype: torch.dtype = getattr(torch, precision.value)
        self._module = module.to(self._device).eval()
        self._cuda = _Cuda(self._device) if cuda else None
        self._capture = capture
        self._graphs: dict[tuple[int, Shapes], _Graph] = {}
        if cuda:
            self._module.to(memory_format=torch.channels_last)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        with torch.inference_mode(), self._cuda.aside() if self._cuda else contextlib.nullcontext():
            yield

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        for size in sorted(batches, reverse=True):  # the others reuse the largest one's memory
            if self._cuda is None or not self._capture:
                self.run([example] * size)
            else:
                with torch.inference_mode(), self._cuda.turn:
                    self._graphs[size, shapes_of(example)] = _Graph(self._eager, size, example, self._cuda)

    def run(self, items: Sequence[Inputs]) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            if self._cuda is None:
                return self._eager([torch.from_numpy(one) for one in stack(items)])
            batch = self._cuda.upload(items)
            shapes = shapes_of(items[0])
            sizes = [size for size, known in self._graphs if known == shapes and size >= len(items)]
            forward = self._graphs[min(sizes), shapes].replay if sizes else self._eager
            return self._cuda.compute(forward, batch)

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
        turn: held while a batch is put on `compute_stream`: the graphs share their memory and their inputs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.compute_stream = torch.cuda.Stream(device)
        self._copy_stream = torch.cuda.Stream(device)
        self._thread = threading.local()
        self.pool = torch.cuda.graph_pool_handle()
        self.turn = threading.Lock()
        self._inputs: dict[Shapes, list[Tensor]] = {}

    def aside(self) -> torch.cuda.StreamContext:
        """This thread's own stream, for what is done with the outputs."""
        if not hasattr(self._thread, "stream"):
            self._thread.stream = torch.cuda.Stream(self._device)
        return torch.cuda.stream(self._thread.stream)

    def inputs(self, size: int, example: Inputs) -> list[Tensor]:
        """Where graphs of one shape of item read: Tensors [size, ...], the same memory for all sizes."""
        shapes = shapes_of(example)
        held = self._inputs.get(shapes)
        if held is None or len(held[0]) < size:
            held = self._inputs[shapes] = [
                torch.zeros((size, *one.shape), dtype=_dtype(one), device=self._device) for one in example
            ]
        return [one[:size] for one in held]

    def upload(self, items: Sequence[Inputs]) -> list[Tensor]:
        """The inputs, each [N, ...]; what `compute_stream` runs next waits for the copy, the host does not.

        PyTorch's allocator keeps pinned memory, and gives it out again only when the copy is done.
        """
        batch = []
        for column in zip(*items, strict=True):
            staging = torch.empty((len(column), *column[0].shape), dtype=_dtype(column[0]), pin_memory=True)
            np.stack(column, out=staging.numpy())
            with torch.cuda.stream(self._copy_stream):
                batch.append(staging.to(self._device, non_blocking=True))
            batch[-1].record_stream(self.compute_stream)
        self.compute_stream.wait_event(self._copy_stream.record_event())
        return batch

    def compute(
        self, forward: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], batch: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Runs a batch and waits for it; the outputs are good on the caller's stream."""
        consumer = torch.cuda.current_stream(self._device)
        with self.turn, torch.cuda.stream(self.compute_stream):
            outputs = forward(batch)
            done = self.compute_stream.record_event()
        done.synchronize()  # outside the turn, so that the next batch queues up behind this one
        for output in outputs:
            output.record_stream(consumer)
        return outputs


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


def pick_device(setting: str) -> str:
    """`auto` becomes ``cuda:0`` where there is a GPU, else ``cpu``.

    Raises:
        ValueError: a GPU was asked for that is not there.
    """
    if setting == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device(setting)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"LYNCEUS_DEVICE={setting}, but there are {torch.cuda.device_count()} GPUs")
    return "cuda:0" if setting == "cuda" else setting


def make_executor(pipeline: Pipeline, settings: Settings) -> Executor:
    """Chooses and makes the executor of a pipeline; see `Settings.executor`."""
    device = pick_device(settings.device)
    executor = _executor(pipeline, settings, device)
    return FixedBatch(executor, pipeline.batch) if pipeline.batch else executor


def _executor(pipeline: Pipeline, settings: Settings, device: str) -> Executor:
    kind = settings.executor
    if kind is ExecutorKind.AUTO:
        openvino = device == "cpu" and importlib.util.find_spec("openvino") is not None
        kind = ExecutorKind.OPENVINO if openvino else ExecutorKind.TORCH
    if kind is ExecutorKind.OPENVINO and device != "cpu":
        raise ValueError("LYNCEUS_EXECUTOR=openvino runs on a CPU; set LYNCEUS_DEVICE=cpu")
    if kind is ExecutorKind.OPENVINO and (pipeline.exportable or pipeline.convert is not None):
        return OpenVINOExecutor(
            pipeline.module,
            settings.thread_count(cuda=False),
            settings.precision,
            dynamic_size=pipeline.dynamic_size,
            stages=pipeline.stages,
            convert=pipeline.convert,
            batch=pipeline.batch,
        )
    precision = settings.precision
    # of its file: what another runtime runs, and an exported network that no gate of ours has seen
    if pipeline.runtime != "torch" or (precision is Precision.AUTO and pipeline.convert is not None):
        precision = Precision.FLOAT32
    executor = TorchExecutor(pipeline.module, device, precision, capture=pipeline.exportable)
    executor.name = pipeline.runtime
    return executor


class FixedBatch:
    """An executor of a network that always takes the same number of items: a smaller batch is padded with
    its last item, a larger one is cut.

    Args:
        inner: runs batches of exactly `size` items.
        size: of a batch.
    """

    def __init__(self, inner: Executor, size: int) -> None:
        self._inner, self._size = inner, size
        self.name, self.device, self.precision = inner.name, inner.device, inner.precision
        self.stages: Mapping[str, RunStage] = inner.stages

    def scope(self) -> AbstractContextManager[None]:
        return self._inner.scope()

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        self._inner.warm(example, [self._size])

    def run(self, items: Sequence[Inputs]) -> tuple[Tensor, ...]:
        parts = []
        for start in range(0, len(items), self._size):
            part = list(items[start : start + self._size])
            outputs = self._inner.run(part + part[-1:] * (self._size - len(part)))
            parts.append([output[: len(part)] for output in outputs])
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def is_device_lost(error: BaseException) -> bool:
    """Whether a GPU's context is broken: every later call fails too, until the process is restarted."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error) and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device (or the host) ran out of memory, as each back end says it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # the host's allocator, and cuBLAS and cuDNN, whose status is an ordinary RuntimeError
    signs = ("out of memory", "can't allocate memory", "status_alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
