"""Batches on a GPU: streams, pinned memory and CUDA graphs; `service/engine/torch_executor.py` uses it.

A batch goes up on a stream of its own, runs on one stream that all batches of an executor share, and comes
back on a third, so that with two slots the next batch crosses the bus while one computes. What the driver
gives is behind `Runtime`, so that the order of all this is tested without a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CAPTURING: Final = threading.Lock()
"""Held by the one thread of this process that captures a graph, or gives memory back to the device."""
PORTABLE: Final = 1
"""`cudaHostRegisterPortable`: for every context of the process."""

Forward = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


class Runtime:
    """What CUDA gives, by torch.

    In this process convolutions and products of float32 are computed as IEEE has it from then on, not in
    TensorFloat-32, whose 10 bits are float16's.

    Args:
        device: ``cuda`` or ``cuda:N``.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # not by the newer `fp32_precision`: torch.export and torch.compile then fail where they ask for these
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False

    def stream(self) -> Any:
        """Work that is done in order, and in no order with that of other streams but by events."""
        return torch.cuda.Stream(self.device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """This thread's work goes to the stream meanwhile, and its memory is taken from it."""
        return torch.cuda.stream(stream)

    def event(self) -> Any:
        """A point in a stream's work, to be recorded; a thread that waits for it sleeps."""
        # the default is to spin: a core for each slot of each model
        return torch.cuda.Event(blocking=True)

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the host that copies cross the bus from and to, not before their stream's turn."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def keep(self, tensor: Tensor, stream: Any) -> None:
        """The tensor's memory is given to no other before what the stream was told by then is done."""
        tensor.record_stream(stream)

    def register(self, memory: memoryview) -> None:
        """Copies may read it where it lies from then on; whole pages.

        Raises:
            RuntimeError: CUDA refuses.
        """
        cudart: Any = torch.cuda.cudart()
        torch.cuda.check_error(int(cudart.cudaHostRegister(_address(memory), memory.nbytes, PORTABLE)))

    def unregister(self, memory: memoryview) -> None:
        """Ends that; to be called before the memory is unmapped, and when no copy reads it any more.

        Raises:
            RuntimeError: CUDA refuses.
        """
        cudart: Any = torch.cuda.cudart()
        torch.cuda.check_error(int(cudart.cudaHostUnregister(_address(memory))))

    def is_direct(self, array: NDArray[Any]) -> bool:
        """Whether copies may read the array where it lies."""
        return torch.from_numpy(array).is_pinned()

    def pool(self) -> Any:
        """Memory that several graphs share."""
        return torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def capture(self, stream: Any, pool: Any) -> Iterator[Any]:
        """Work is recorded into a graph meanwhile, not done; before it begins, all other work ends."""
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads may allocate meanwhile. One at a time: each begins with waiting for
        # all of the device's work, which CUDA refuses while another one is under way
        with (
            CAPTURING,
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            yield graph

    def release(self) -> None:
        """Gives memory that nothing holds back to the device."""
        gc.collect()
        with CAPTURING:  # torch frees none meanwhile, and may fail
            torch.cuda.empty_cache()


class Pending:
    """A batch under way.

    Args:
        arrived: when the outputs are on the host.
        outputs: in pinned memory, which lives as long as the arrays that are made of it.
    """

    def __init__(self, arrived: Any, outputs: Sequence[Tensor]) -> None:
        self._arrived = arrived
        self._outputs = outputs

    def wait(self) -> tuple[NDArray[Any], ...]:
        """The outputs, once they are there."""
        self._arrived.synchronize()
        return tuple(output.numpy() for output in self._outputs)


class Lanes:
    """The streams of an executor, and the memory that its graphs share.

    Attributes:
        runtime: CUDA.
        compute: the stream on which batches run, one after the other.
        pool: the graphs' memory.
        turn: held while a batch is put on the streams: graphs share their memory and their inputs.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.compute, self._up, self._down = (runtime.stream() for _ in range(3))
        self.pool = runtime.pool()
        self.turn = threading.Lock()
        self._inputs: dict[Any, list[Tensor]] = {}

    def inputs(self, size: int, example: Sequence[NDArray[Any]]) -> list[Tensor]:
        """Where graphs of one shape of item read: Tensors [size, ...], the same memory for all sizes."""
        key = tuple([(one.shape, one.dtype) for one in example])
        held = self._inputs.get(key)
        if held is None or len(held[0]) < size:
            with self.runtime.on(self.compute):
                held = self._inputs[key] = [
                    torch.zeros((size, *one.shape), dtype=dtype_of(one), device=self.runtime.device)
                    for one in example
                ]
        return [one[:size] for one in held]

    def submit(self, forward: Forward, columns: Sequence[Any]) -> Pending:
        """Puts a batch on the streams: up, `forward`, back; the host waits for nothing.

        Args:
            forward: of the batch's inputs on the device, each [N, ...].
            columns: each input of the batch, as an array [N, ...] or N arrays. What is registered is read
                where it lies until the batch's outputs are there, or this raises.
        """
        event, on = self.runtime.event, self.runtime.on
        try:
            batch, uploaded = self._upload(columns)
            with self.turn:
                with on(self.compute):
                    self.compute.wait_event(uploaded)
                    outputs = forward(batch)
                    self.compute.record_event(done := event())
                with on(self._down):
                    self._down.wait_event(done)
                    host = [self._download(output) for output in outputs]
                    self._down.record_event(arrived := event())
        except Exception:
            # no caller waits for outputs, and what the copies read is its owner's again
            self._up.record_event(read := event())
            read.synchronize()
            raise
        return Pending(arrived, host)

    def _upload(self, columns: Sequence[Any]) -> tuple[list[Tensor], Any]:
        """The inputs, each [N, ...], and when they are there."""
        batch = []
        with self.runtime.on(self._up):
            for column in columns:
                shape, dtype = (len(column), *column[0].shape), dtype_of(column[0])
                batch.append(there := torch.empty(shape, dtype=dtype, device=self.runtime.device))
                self.runtime.keep(there, self.compute)
                if all(self.runtime.is_direct(one) for one in column):
                    for row, one in zip(there, column, strict=True):
                        row.copy_(torch.from_numpy(one), non_blocking=True)
                else:  # PyTorch's allocator gives out the staging memory again when the copy is done
                    staging = self.runtime.pinned(shape, dtype)
                    np.stack(column, out=staging.numpy())
                    there.copy_(staging, non_blocking=True)
            self._up.record_event(uploaded := self.runtime.event())
        return batch, uploaded

    def _download(self, output: Tensor) -> Tensor:
        """The output on its way to pinned memory; float32 where it is of any float type."""
        self.runtime.keep(output, self._down)
        if output.is_floating_point():
            output = output.float()
        return self.runtime.pinned(output.shape, output.dtype).copy_(output, non_blocking=True)


class Graph:
    """A captured forward pass for one shape of batch.

    Graphs of one pool share their memory (the later ones take what the first and largest left), so each
    replay's outputs are copied before the next.

    Args:
        forward: what is captured; it has run on such inputs before, so that the allocator and cuDNN's choices
            have settled.
        inputs: that it reads, from `Lanes.inputs`.
        lanes: whose `turn` the caller holds.

    Raises:
        Exception: the capture failed, by whatever the library says then.
    """

    def __init__(self, forward: Forward, inputs: Sequence[Tensor], lanes: Lanes) -> None:
        self._inputs = inputs
        with lanes.runtime.capture(lanes.compute, lanes.pool) as self._graph:
            self._outputs = forward(inputs)

    def replay(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs of at most as many items as were captured; on the stream that was captured."""
        for held, given in zip(self._inputs, batch, strict=True):
            held[: len(given)].copy_(given)
        self._graph.replay()
        return tuple(output[: len(batch[0])].clone() for output in self._outputs)


def _address(memory: memoryview) -> int:
    return torch.frombuffer(memory, dtype=torch.uint8).data_ptr()


def dtype_of(array: NDArray[Any]) -> torch.dtype:
    """torch's name of an array's type."""
    return torch.from_numpy(array[:0]).dtype
