"""The service with a fault, for tests of the verdict: what BentoML serves as `tests.faulty:Lynceus`.

`FAULT=slow` runs every network three times instead of once. `FAULT=errors` fails one picture in a hundred,
which the client sees as a 500. The faults are put in from outside: the service has no hook for them.
"""

from __future__ import annotations

import os
from typing import Any

from service.bento import Lynceus
from service.dataplane import DataPlane
from service.executor import OpenVINOExecutor, TorchExecutor

__all__ = ["Lynceus"]


def slow(executor: Any) -> None:
    run = executor.run

    def thrice(self: Any, pictures: Any) -> Any:
        run(self, pictures)
        run(self, pictures)
        return run(self, pictures)

    executor.run = thrice


def failing() -> None:
    infer = DataPlane.infer
    # a byte for each picture, of all workers
    counter = os.open(os.environ["FAULT_COUNTER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def sometimes(self: DataPlane, *args: Any, **options: Any) -> Any:
        os.write(counter, b".")
        if os.fstat(counter).st_size % 100 == 50:
            raise RuntimeError("one in a hundred")
        return await infer(self, *args, **options)

    DataPlane.infer = sometimes  # type: ignore[method-assign]


if os.environ.get("FAULT") == "slow":
    slow(OpenVINOExecutor)
    slow(TorchExecutor)
elif os.environ.get("FAULT") == "errors":
    failing()
