"""OpenVINO as an executor: see `service/executor.py`, which chooses."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.settings import Precision

Shape = tuple[int, int, int]
Pictures = Sequence[NDArray[np.uint8]]


class OpenVINOExecutor:
    """OpenVINO on a CPU: one compiled network per picture shape, with a free batch dimension.

    CPU pinning is off: with it two worker processes sit on one core (measured: half the throughput).
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        module: nn.Module,
        threads: int,
        precision: Precision = Precision.AUTO,
        *,
        inputs: torch.dtype = torch.uint8,
    ) -> None:
        self._module = module.eval()
        self._inputs = inputs
        half = precision is not Precision.AUTO and precision is not Precision.FLOAT32
        self.precision = "bfloat16" if half else "float32"
        self._config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        }
        self._compiled: dict[Shape, Any] = {}
        self._converted: Any = None
        self._compiling = threading.Lock()
        self._requests = threading.local()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        with torch.inference_mode():
            yield

    def warm(self, shape: Shape, batches: Sequence[int]) -> None:
        blank = np.zeros(shape, np.uint8)
        for size in batches:
            self.run([blank] * size)

    def run(self, pictures: Pictures) -> tuple[Tensor, ...]:
        return self.forward(np.stack(pictures))

    def forward(self, batch: NDArray[Any]) -> tuple[Tensor, ...]:
        """Runs a stacked batch [N, H, W, 3] of the type that the network takes."""
        shape: Shape = batch.shape[1:]
        requests: dict[Any, Any] = self._requests.__dict__.setdefault("by_shape", {})
        request = requests.get(shape)
        if request is None:
            request = requests[shape] = self._compile(shape).create_infer_request()
        # share_outputs off: the arrays are ours to keep after the next infer
        result = request.infer({0: batch}, share_inputs=True, share_outputs=False)
        return tuple(torch.from_numpy(result[index]) for index in range(len(result)))

    def _compile(self, shape: Shape) -> Any:
        _forgo_telemetry()
        import openvino

        with self._compiling:
            if shape not in self._compiled:
                network = self._network(shape)
                network.reshape([-1, *shape])
                self._compiled[shape] = openvino.Core().compile_model(network, "CPU", self._config)
            return self._compiled[shape]

    def _network(self, shape: Shape) -> Any:
        """Converted; a network that is the same at any size is converted once, since that takes seconds."""
        if not getattr(self._module, "any_size", False):
            return self._convert(shape)
        if self._converted is None:
            self._converted = self._convert(shape)
        return self._converted.clone()

    def _convert(self, shape: Shape) -> Any:
        import openvino

        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of the tracer: our modules do not branch on data
            # two rows, so that no dimension of one is mistaken for something to broadcast
            example = torch.zeros((2, *shape), dtype=self._inputs)
            # traced here, since the converter's own tracing runs it thrice to compare
            traced = torch.jit.trace(self._module, example, check_trace=False)
            return openvino.convert_model(traced, example_input=example)


def compiled_stage(module: nn.Module, threads: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A small network that a pipeline calls itself, on square float32 crops whose number varies."""
    executor = OpenVINOExecutor(module, threads, inputs=torch.float32)
    side = int(module.side)  # type: ignore[arg-type]
    for count in (1, 32):
        executor.forward(np.zeros((count, side, side, 3), np.float32))
    return lambda crops: executor.forward(crops.numpy())


def _forgo_telemetry() -> None:
    """Keeps OpenVINO's converter from reporting each conversion to its maker.

    It does so from a forked process, which takes seconds and which gRPC's threads do not like. Without the
    package that reports, the converter has a stub of its own in its place.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
