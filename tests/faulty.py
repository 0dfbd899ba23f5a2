"""The service with faults, for tests of the verdict; BentoML serves `tests.faulty:Lynceus`.

The file that `FAULT` names says which: `slow` runs every network three times instead of once, `errors`
fails one picture in a hundred, which the client sees as a 500; nothing, or no file: none. They are put in
from outside: the service has no hook for them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from service.bento import Lynceus
from service.engine.engine import Engine
from service.engine.openvino_executor import OpenVINOExecutor
from service.engine.torch_executor import TorchExecutor

__all__ = ["Lynceus"]

FAULT = Path(os.environ["FAULT"])


def fault() -> str:
    """What is to go wrong now."""
    return FAULT.read_text() if FAULT.exists() else ""


def slow(executor: Any) -> None:
    run = executor.run

    def thrice(self: Any, pictures: Any) -> Any:
        if "slow" in fault():
            run(self, pictures)
            run(self, pictures)
        return run(self, pictures)

    executor.run = thrice


def failing() -> None:
    infer = Engine.infer
    counter = FAULT.with_suffix(".counter")  # a byte for each picture, of all workers

    async def sometimes(self: Engine, *args: Any, **options: Any) -> Any:
        if "errors" in fault():
            with counter.open("ab") as file:
                file.write(b".")
            if counter.stat().st_size % 100 == 50:
                raise RuntimeError("one in a hundred")
        return await infer(self, *args, **options)

    Engine.infer = sometimes  # type: ignore[method-assign]


slow(OpenVINOExecutor)
slow(TorchExecutor)
failing()
