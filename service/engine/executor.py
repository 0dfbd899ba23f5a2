"""How a module runs on a stacked batch: Torch (CPU or CUDA, with CUDA graphs) or OpenVINO (CPU).

An executor takes items whose inputs have the same shapes and gives arrays on the host, whose first
dimension is the batch. It is used from threads of its runner, never from the event loop. Each executor's
library is imported when it is chosen.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.ir.cache import Cache
from models.pipeline import Inputs, Pipeline, RunStage
from service.engine.cores import Cores
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

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        """Runs items whose inputs have the same shapes as one batch.

        Returns:
            the module's outputs, each [N, ...], the caller's own; float32 where they are of any float type.
        """
        ...


def stack(items: Sequence[Inputs]) -> list[NDArray[Any]]:
    """Items whose inputs have the same shapes -> each input of the batch, [N, ...]."""
    return [np.stack(column) for column in zip(*items, strict=True)]


def pick_device(setting: str) -> str:
    """`auto` becomes ``cuda:0`` where there is a GPU, else ``cpu``.

    Raises:
        ValueError: a GPU was asked for that is not there.
    """
    if setting == "cpu" or (setting == "auto" and not _has_driver()):
        return "cpu"
    import torch

    if setting == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device(setting)
    if (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"LYNCEUS_DEVICE={setting}, but there are {torch.cuda.device_count()} GPUs")
    return "cuda:0" if setting == "cuda" else setting


def _has_driver() -> bool:
    """Whether NVIDIA's driver is here; without it torch, which takes seconds to import, finds no GPU."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def make_executor(
    pipeline: Pipeline, settings: Settings, cache: Cache | None = None, cores: Cores | None = None
) -> Executor:
    """Chooses and makes the executor of a pipeline; see `Settings.executor`.

    Args:
        pipeline: whose module is run.
        settings: device, executor, precision, threads.
        cache: of converted networks, where the executor converts them.
        cores: where images of all workers are counted; see `OpenVINOExecutor`.
    """
    device = pick_device(settings.device)
    executor: Executor
    if openvino_runs(settings, device) and (pipeline.exportable or pipeline.convert is not None):
        from service.engine.openvino_executor import OpenVINOExecutor

        threads = settings.thread_count(cuda=False)
        executor = OpenVINOExecutor(pipeline, threads, settings.precision, cache=cache, cores=cores)
    else:
        from service.engine.torch_executor import TorchExecutor

        precision = settings.precision
        # of its file: what another runtime runs, and an exported network that no gate of ours has seen
        if pipeline.runtime != "torch" or (precision is Precision.AUTO and pipeline.convert is not None):
            precision = Precision.FLOAT32
        executor = TorchExecutor(pipeline, device, precision, compiled=settings.compile)
        executor.name = pipeline.runtime
    return FixedBatch(executor, pipeline.batch) if pipeline.batch else executor


def openvino_runs(settings: Settings, device: str) -> bool:
    """Whether networks run in OpenVINO, where they can be converted.

    Raises:
        ValueError: it was asked for, but not on a CPU.
    """
    if settings.executor is ExecutorKind.AUTO:
        return device == "cpu" and importlib.util.find_spec("openvino") is not None
    if settings.executor is ExecutorKind.OPENVINO and device != "cpu":
        raise ValueError("LYNCEUS_EXECUTOR=openvino runs on a CPU; set LYNCEUS_DEVICE=cpu")
    return settings.executor is ExecutorKind.OPENVINO


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

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        self._inner.warm(example, [self._size])

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        parts = []
        for start in range(0, len(items), self._size):
            part = list(items[start : start + self._size])
            outputs = self._inner.run(part + part[-1:] * (self._size - len(part)))
            parts.append([output[: len(part)] for output in outputs])
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def is_device_lost(error: BaseException) -> bool:
    """Whether a GPU's context is broken: every later call fails too, until the process is restarted."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error) and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device (or the host) ran out of memory, as each back end says it."""
    # torch.OutOfMemoryError, the host's allocator, cuBLAS and cuDNN: RuntimeErrors that only their text tells
    signs = ("out of memory", "can't allocate memory", "status_alloc_failed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    )
