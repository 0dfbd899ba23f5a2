"""The layers of a served model: asked of torch, in the worker or in its process with torch."""

from __future__ import annotations

from collections.abc import Sequence

from models.classification.explain.maps import Layer
from service.engine.engine import Engine
from service.engine.installed import require_torch
from service.engine.offload import Call
from service.engine.runner import Runner


async def layers(engine: Engine, runner: Runner, deadline: float | None = None) -> Sequence[Layer]:
    """The layers that give feature maps, in the order in which they run.

    Raises:
        ParameterInvalid: it is an exported graph, which has none.
        NotSupported: torch is not installed.
        DeadlineExceeded: it was not done in time.
    """
    require_torch("a list of layers")

    def work(call: Call) -> Sequence[Layer]:
        if engine.torch_process is not None:
            found: Sequence[Layer] = engine.torch_process.ask(runner.card.name, "layers", call)
            return found
        from models.classification.explain.layers import layers_of  # torch

        return layers_of(runner.pipeline)

    return await engine.offload.run(work, deadline)
