"""PyTorch as an executor: see `service/engine/executor.py`, which chooses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.inference import prepare_for_gpu
from models.pipeline import Inputs, Pipeline, RunStage
from service.engine.cuda import Forward, Graph, Lanes, Runtime
from service.settings import Precision

logger = logging.getLogger(__name__)

STAGE_SIZES: Final = (512, 256, 128, 64, 32)
"""Batches of a stage on a GPU, which others are padded to: cuDNN keeps a plan of every size that it meets,
for every thread and for good."""


class TorchExecutor:
    """PyTorch as it is, on a CPU or a GPU.

    On a GPU the module is changed in place: batch norms are folded, weights are of 16 bits where the
    precision is, layouts are the GPU's. Each batch size that was warmed has a CUDA graph; a batch is padded
    to the next such size, and larger ones run eagerly, as do those whose capture failed.

    Args:
        pipeline: whose module and stages are run.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of the arithmetic; on a GPU ``auto`` is the one that `choose` takes.
        compiled: on a GPU whether the graphs are of what `torch.compile` makes of the module.
        runtime: of a GPU; None: CUDA.

    Raises:
        ValueError: the GPU does not compute in that precision.
    """

    name: str = "torch"

    def __init__(
        self,
        pipeline: Pipeline,
        device: str,
        precision: Precision = Precision.AUTO,
        *,
        compiled: bool = False,
        runtime: Runtime | None = None,
    ) -> None:
        self.device = device
        on = torch.device(device)
        if on.type == "cuda" and runtime is None:
            runtime = Runtime(on)
        self._lanes = None if runtime is None else Lanes(runtime)
        whole = precision in (Precision.AUTO, Precision.INT8)
        chosen = of_stages = "float32" if whole else precision.value
        if on.type == "cuda":
            capability = torch.cuda.get_device_capability(on)
            chosen = choose(precision, pipeline.precisions, capability)
            of_stages = choose(precision, pipeline.stage_precisions, capability)
        one = not pipeline.stages or of_stages == chosen
        self.precision = chosen if one else f"{chosen}, stages {of_stages}"
        # exported networks have types of their own, and what branches on data cannot be looked through
        ours = pipeline.exportable and pipeline.convert is None and pipeline.runtime == "torch"
        self._network = _Network(
            pipeline.module,
            pipeline.examples[0],
            on,
            getattr(torch, chosen),
            self._lanes,
            name=pipeline.card.name,
            ours=ours,
            capture=pipeline.exportable,
            channels_last=pipeline.channels_last,
            compiled=compiled,
        )
        self._stages = {
            name: _Network(
                stage.module,
                (np.zeros(stage.shape, np.float32),),
                on,
                getattr(torch, of_stages),
                self._lanes,
                name=f"{pipeline.card.name}, {name}",
                compiled=compiled,
            )
            for name, stage in pipeline.stages.items()
        }
        self.stages: Mapping[str, RunStage] = {
            name: network.run_stage for name, network in self._stages.items()
        }

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        if self._lanes is not None:
            for network in self._stages.values():
                network.warm(network.example, STAGE_SIZES)
        self._network.warm(example, batches)

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        return self._network.run(list(zip(*items, strict=True)))


class _Network:
    """A module on a device, with the batches that it is prepared for.

    Args:
        module: float32.
        example: an item's inputs.
        device, dtype: of the arithmetic.
        lanes: of the GPU; None: a CPU.
        name: for the log.
        ours: a module whose weights may change their type, see `models.inference.narrow`; others are left to
            autocast.
        capture: whether it can be captured.
        channels_last: whether its convolutions are given their inputs so.
        compiled: by `torch.compile`, where it can be captured.
    """

    def __init__(
        self,
        module: nn.Module,
        example: Inputs,
        device: torch.device,
        dtype: torch.dtype,
        lanes: Lanes | None,
        *,
        name: str,
        ours: bool = True,
        capture: bool = True,
        channels_last: bool = True,
        compiled: bool = False,
    ) -> None:
        self.example = example
        self._name = name
        self._device, self._dtype, self._lanes = device, dtype, lanes
        self._cast = dtype != torch.float32 and not (ours and lanes is not None)
        self._capture = capture
        self._graphs: dict[tuple[int, tuple[tuple[int, ...], ...]], Graph | None] = {}
        module = module.eval()
        if lanes is not None and ours:
            inputs = [torch.from_numpy(one[None]) for one in example]
            prepare_for_gpu(module, inputs, dtype, channels_last=channels_last)
        elif lanes is not None:
            module.to(memory_format=torch.channels_last)
        self._module = module = module.to(device if lanes is None else lanes.runtime.device)
        self._captured: Callable[..., Any] = module
        if compiled and lanes is not None and capture:
            # one program for each size; "reduce-overhead" has graphs of its own, which belong to one thread
            torch._dynamo.config.recompile_limit = 64
            self._captured = torch.compile(module, dynamic=False)

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        """Prepares for batches of these sizes and runs each as it will be run; the largest first."""
        shapes = tuple([one.shape for one in example])
        for size in sorted(batches, reverse=True):  # the others reuse the largest one's memory
            if (size, shapes) in self._graphs:
                continue
            if self._lanes is not None and self._capture:
                with torch.inference_mode(), self._lanes.turn:
                    self._graphs[size, shapes] = self._prepared(self._lanes, size, example)
            self.run([[one] * size for one in example])

    def run(self, columns: Sequence[Any]) -> tuple[NDArray[Any], ...]:
        """The outputs of a batch; `columns`: each input, as an array [N, ...] or N arrays."""
        with torch.inference_mode():
            if self._lanes is None:
                outputs = self._eager([torch.from_numpy(np.ascontiguousarray(one)) for one in columns])
                return tuple(_widened(one).numpy() for one in outputs)
            return self._lanes.submit(self._forward(columns), columns).wait()

    def run_stage(self, items: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """As `run`, of a module with one input."""
        return self.run([items])

    def _forward(self, columns: Sequence[Any]) -> Forward:
        count, shapes = len(columns[0]), tuple([one[0].shape for one in columns])
        sizes = [size for size, known in self._graphs if known == shapes and size >= count]
        if not sizes:
            return self._eager
        graph = self._graphs[min(sizes), shapes]
        return graph.replay if graph is not None else lambda batch: self._padded(batch, min(sizes))

    def _padded(self, batch: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
        count = len(batch[0])
        full = [torch.cat((one, one.new_zeros((size - count, *one.shape[1:])))) for one in batch]
        return tuple(output[:count] for output in self._eager(full))

    def _prepared(self, lanes: Lanes, size: int, example: Inputs) -> Graph | None:
        """The graph for a size; None where it cannot be captured and is run without."""
        inputs = lanes.inputs(size, example)
        with lanes.runtime.on(lanes.compute):
            for _ in range(2):  # the allocator and cuDNN's choices settle before the capture
                self._eager(inputs, self._captured)
        try:
            return Graph(lambda batch: self._eager(batch, self._captured), inputs, lanes)
        except Exception as error:  # whatever a capture makes of it: it ran a moment ago
            what = "%s: a batch of %d could not be captured and runs without a CUDA graph: %s"
            logger.warning(what, self._name, size, " ".join(str(error).split())[:300])
        lanes.runtime.release()
        return None

    def _eager(self, batch: Sequence[Tensor], module: Any = None) -> tuple[Tensor, ...]:
        with torch.autocast(self._device.type, self._dtype, enabled=self._cast, cache_enabled=False):
            return _as_tuple((self._module if module is None else module)(*batch))


def choose(asked: Precision, passed: Sequence[str], capability: tuple[int, int]) -> str:
    """The precision that a network is run at on a GPU: ``float32``, ``float16`` or ``bfloat16``.

    Args:
        asked: a setting. ``auto``: float16 where its answers have passed the model's gates, else float32;
            ``int8`` is no precision of a GPU's here, and is as ``auto``.
        passed: precisions whose answers have passed.
        capability: of the GPU, major and minor.

    Raises:
        ValueError: bfloat16 on a GPU that has no convolutions of it; its library says that it has.
    """
    if asked is Precision.BFLOAT16 and capability < (8, 0):
        raise ValueError(
            "LYNCEUS_PRECISION=bfloat16 takes a GPU of compute capability 8.0 or later, this one has "
            f"{capability[0]}.{capability[1]}: use auto or float16"
        )
    if asked in (Precision.AUTO, Precision.INT8):
        return "float16" if "float16" in passed and capability >= (5, 3) else "float32"
    return asked.value


def _as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _widened(output: Tensor) -> Tensor:
    """NumPy has no bfloat16, and what reads outputs expects float32."""
    return output.float() if output.is_floating_point() else output
