"""OpenVINO as an executor: see `service/engine/executor.py`, which chooses."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.pipeline import Inputs, RunStage, Stage
from service.engine.executor import Shapes, shapes_of, stack
from service.settings import Precision

if TYPE_CHECKING:
    from torch import nn


class OpenVINOExecutor:
    """OpenVINO on a CPU: one compiled network for each shape of item, with a free batch dimension.

    CPU pinning is off: with it two worker processes sit on one core (measured: half the throughput).

    Args:
        module: the network, in eval mode.
        threads: of one inference.
        precision: of the arithmetic.
        dynamic_size: whether one conversion serves all sizes; see `Pipeline.dynamic_size`.
        stages: the networks that the pipeline calls directly; compiled at once, in float32.
        convert: see `Pipeline.convert`.
        batch: see `Pipeline.batch`.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        module: nn.Module,
        threads: int,
        precision: Precision = Precision.AUTO,
        *,
        dynamic_size: bool = False,
        stages: Mapping[str, Stage] | None = None,
        convert: Callable[[], Any] | None = None,
        batch: int = 0,
    ) -> None:
        self._module = module.eval()
        self._dynamic_size = dynamic_size
        self._source = convert
        self._rows = batch or -1
        half = precision is not Precision.AUTO and precision is not Precision.FLOAT32
        self.precision = "bfloat16" if half else "float32"
        self._config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        }
        self._compiled: dict[Shapes, Any] = {}
        self._converted: Any = None
        self._compiling = threading.Lock()
        self._requests = threading.local()
        self.stages: Mapping[str, RunStage] = {
            name: _compiled(stage, threads) for name, stage in (stages or {}).items()
        }

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        for size in batches:
            self.run([example] * size)

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        return self.forward(stack(items))

    def forward(self, batch: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Runs stacked inputs, each [N, ...] of the type that the network takes."""
        shapes = shapes_of(array[0] for array in batch)
        requests: dict[Any, Any] = self._requests.__dict__.setdefault("by_shapes", {})
        request = requests.get(shapes)
        if request is None:
            request = requests[shapes] = self._compile(shapes, batch).create_infer_request()
        # share_outputs off: the arrays stay valid after the next infer
        result = request.infer(dict(enumerate(batch)), share_inputs=True, share_outputs=False)
        return tuple([_widened(result[index]) for index in range(len(result))])

    def _compile(self, shapes: Shapes, batch: Sequence[NDArray[Any]]) -> Any:
        _forgo_telemetry()
        import openvino

        with self._compiling:
            if shapes not in self._compiled:
                network = self._network(batch)
                network.reshape({index: [self._rows, *shape] for index, shape in enumerate(shapes)})
                self._compiled[shapes] = openvino.Core().compile_model(network, "CPU", self._config)
            return self._compiled[shapes]

    def _network(self, batch: Sequence[NDArray[Any]]) -> Any:
        """Converted; a network that is the same at any size is converted once, since that takes seconds."""
        if not self._dynamic_size:
            return self._convert(batch)
        if self._converted is None:
            self._converted = self._convert(batch)
        return self._converted.clone()

    def _convert(self, batch: Sequence[NDArray[Any]]) -> Any:
        if self._source is not None:
            return self._source()
        import openvino
        import torch

        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of the tracer: the modules do not branch on data
            # two rows, so that no dimension of one is mistaken for something to broadcast
            example = tuple(torch.from_numpy(np.zeros((2, *one.shape[1:]), one.dtype)) for one in batch)
            # traced here, since the converter's own tracing runs it thrice to compare
            traced = torch.jit.trace(self._module, example, check_trace=False)
            return openvino.convert_model(traced, example_input=example)


def _compiled(stage: Stage, threads: int) -> RunStage:
    """A stage's network for any number of items."""
    executor = OpenVINOExecutor(stage.module, threads)
    for count in (1, 32):
        executor.forward([np.zeros((count, *stage.shape), np.float32)])
    return lambda items: executor.forward([items])


def _widened(output: NDArray[Any]) -> NDArray[Any]:
    return output.astype(np.float32) if output.dtype == np.float16 else output


def _forgo_telemetry() -> None:
    """Keeps OpenVINO's converter from sending telemetry on each conversion.

    It does so from a forked process, which takes seconds and which gRPC's threads do not like. Without the
    package that reports, the converter has a stub of its own in its place.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
