"""OpenVINO as an executor: see `service/engine/executor.py`, which chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from models.ir.cache import Cache
from models.ir.network import Networks
from models.ir.precision import instructions, supported
from models.pipeline import Inputs, Pipeline, RunStage
from service.engine.executor import stack
from service.settings import Precision


class OpenVINOExecutor:
    """OpenVINO on a CPU: one compiled network for each shape of item, with a free batch dimension.

    Args:
        pipeline: whose module is run, and whose stages are compiled at once, at the same precision.
        threads: of one inference.
        precision: of the arithmetic; see `choose`.
        cache: of converted and compiled networks; None: they are made anew.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        pipeline: Pipeline,
        threads: int,
        precision: Precision = Precision.AUTO,
        *,
        cache: Cache | None = None,
    ) -> None:
        self.precision = choose(pipeline, precision, supported(instructions()))
        self._networks = Networks(pipeline, self.precision, threads, cache)
        self.stages: Mapping[str, RunStage] = self._networks.stages

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        for size in batches:
            self.run([example] * size)

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        return self._networks.run(stack(items))


def choose(pipeline: Pipeline, asked: Precision, machine: Sequence[str]) -> str:
    """The precision that a pipeline is run at: ``float32``, ``bfloat16`` or ``int8``.

    Args:
        pipeline: which names those that have passed its gates.
        asked: a setting. ``auto``: the fastest that the machine computes and that has passed; ``int8``: so
            where there is an int8 network, else as ``auto``; ``float16`` is no precision of a CPU's, which
            takes the other one of 16 bits.
        machine: precisions that this machine computes faster than float32, the fastest first.
    """
    if asked in (Precision.BFLOAT16, Precision.FLOAT16):
        return "bfloat16"
    if asked is Precision.INT8 and pipeline.quantized is not None:
        return "int8"
    if asked is Precision.FLOAT32:
        return "float32"
    passed = [name for name in machine if name in pipeline.precisions]
    return passed[0] if passed else "float32"
