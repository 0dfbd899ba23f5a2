"""The clock of the service: monotonic seconds and timers, injected so that tests need not sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """A timer that can be cancelled."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Monotonic time in seconds, and timers."""

    def now(self) -> float: ...

    def call_later(self, delay: float, fn: Callable[..., None], *args: object) -> Handle: ...


class LoopClock:
    """The real clock: `time.monotonic` and the running event loop's timers."""

    now = staticmethod(time.monotonic)

    def call_later(self, delay: float, fn: Callable[..., None], *args: object) -> Handle:
        return asyncio.get_running_loop().call_later(delay, fn, *args)
