"""OpenVINO as an executor: see `service/engine/executor.py`, which chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from models.ir.cache import Cache
from models.ir.network import Networks
from models.ir.precision import instructions, supported
from models.pipeline import Inputs, Pipeline, RunStage
from service.engine.cores import Cores
from service.engine.executor import stack
from service.settings import Precision


class OpenVINOExecutor:
    """OpenVINO on a CPU: one compiled network for each shape of item, with a free batch dimension.

    Args:
        pipeline: whose module is run, and whose stages are compiled at once, at the same precision.
        threads: of one inference.
        precision: of the arithmetic; see `choose`.
        cache: of converted and compiled networks; None: they are made anew.
        cores: counts the batches of all workers. A batch that finds the machine idle runs on all cores, in
            networks that are compiled for that besides; None: no batch does.
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
        cores: Cores | None = None,
    ) -> None:
        self.precision = choose(pipeline, precision, supported(instructions()))
        self._networks = self._wide = Networks(pipeline, self.precision, threads, cache)
        self._cores = cores or Cores(None, 1, threads)
        if self._cores.total > threads:
            self._wide = Networks(pipeline, self.precision, self._cores.total, cache)
        self.stages: Mapping[str, RunStage] = {
            name: partial(self._run_stage, stage, self._wide.stages[name])
            for name, stage in self._networks.stages.items()
        }

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        for size in batches:
            self._networks.run(stack([example] * size))
        if 1 in batches and self._wide is not self._networks:
            self._wide.run(stack([example]))

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        with self._cores.claim() as idle:
            return (self._wide if idle else self._networks).run(stack(items))

    def _run_stage(self, stage: RunStage, wide: RunStage, items: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        with self._cores.claim() as idle:
            return (wide if idle else stage)(items)


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
