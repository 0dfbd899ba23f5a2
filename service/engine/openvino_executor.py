"""OpenVINO as an executor: see `service/engine/executor.py`, which chooses."""

from __future__ import annotations

import threading
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
    """OpenVINO on a CPU: see `models.ir.network.Networks`.

    Args:
        pipeline: whose module is run, and whose stages are compiled at once.
        threads: of one inference.
        precision: of the arithmetic; see `choose`.
        cache: of converted and compiled networks; None: they are made anew.
        cores: counts the images of all workers. A batch of all that there are runs on all cores, in
            networks that are compiled for that besides, see `Pipeline.all_cores`; None: none does.
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
        machine = supported(instructions())
        chosen = choose(precision, pipeline.precisions, machine, quantized=pipeline.quantized is not None)
        of_stages = choose(precision, pipeline.stage_precisions, machine)
        one = not pipeline.stages or of_stages == chosen
        self.precision = chosen if one else f"{chosen}, stages {of_stages}"
        self._networks = self._wide = Networks(pipeline, chosen, threads, cache, stage_precision=of_stages)
        self._cores = cores or Cores(None, 1, threads)
        self._batch = threading.local()
        if self._cores.total > threads and pipeline.all_cores:
            make = partial(Networks, stage_precision=of_stages, sizes=(1,))
            self._wide = make(pipeline, chosen, self._cores.total, cache)
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
        self._batch.size = len(items)
        return (self._wide if self._cores.alone(len(items)) else self._networks).run(stack(items))

    def _run_stage(self, stage: RunStage, wide: RunStage, items: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        # of the batch that this thread has just run
        return (wide if self._cores.alone(getattr(self._batch, "size", 1)) else stage)(items)


def choose(
    asked: Precision, passed: Sequence[str], machine: Sequence[str], *, quantized: bool = False
) -> str:
    """The precision that a network is run at: ``float32``, ``bfloat16`` or ``int8``.

    Args:
        asked: a setting. ``auto``: the fastest that the machine computes and that has passed; ``int8``: so
            where there is an int8 network, else as ``auto``; ``float16`` is no precision of a CPU's, which
            takes the other one of 16 bits.
        passed: precisions whose answers have passed the gates.
        machine: precisions that this machine computes faster than float32, the fastest first.
        quantized: whether there is an int8 network.
    """
    if asked in (Precision.BFLOAT16, Precision.FLOAT16):
        return "bfloat16"
    if asked is Precision.INT8 and quantized:
        return "int8"
    if asked is Precision.FLOAT32:
        return "float32"
    return next((name for name in machine if name in passed), "float32")
