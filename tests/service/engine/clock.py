"""A clock that stands still until a test moves it, and a device that answers when a test says so."""

from __future__ import annotations

import asyncio
import gc
import heapq
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from service.engine.clock import Handle

T = TypeVar("T")


class Timer:
    """What `FakeClock.call_later` gives."""

    def __init__(self, fn: Callable[..., None], args: tuple[object, ...]) -> None:
        self.fn, self.args, self.cancelled = fn, args, False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Seconds since 0. Timers run inside `advance`, in the order they are due."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    def call_later(self, delay: float, fn: Callable[..., None], *args: object) -> Handle:
        timer = Timer(fn, args)
        self._count += 1
        heapq.heappush(self._timers, (self._now + delay, self._count, timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Moves time on, stopping at each timer on the way, and lets the loop settle after each."""
        end = self._now + seconds
        await settle()
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if not timer.cancelled:
                timer.fn(*timer.args)
                await settle()
        self._now = end
        await settle()

    def skip(self, seconds: float) -> None:
        """Moves time on while the event loop is held up: no timer gets to run."""
        self._now += seconds

    @property
    def pending(self) -> int:
        """Timers that are neither due nor called off."""
        return sum(not timer.cancelled for _, _, timer in self._timers)


async def settle() -> None:
    """Lets everything that can go on without time or the device go on."""
    for _ in range(12):
        await asyncio.sleep(0)


class Device:
    """A `run` for the batcher that holds each batch until `finish`; notes all that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.busy: list[asyncio.Future[Sequence[Any] | None]] = []
        self.peak = 0

    async def run(self, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(items))
        gate: asyncio.Future[Sequence[Any] | None] = asyncio.get_running_loop().create_future()
        self.busy.append(gate)
        self.peak = max(self.peak, len(self.busy))
        try:
            results = await gate
        finally:
            self.busy.remove(gate)
        return [f"<{item}>" for item in items] if results is None else results

    async def finish(self, results: Sequence[Any] | BaseException | None = None, slot: int = 0) -> None:
        """Ends the run that has been busy longest (or another): echoes, or these results, or raises."""
        if isinstance(results, BaseException):
            self.busy[slot].set_exception(results)
        else:
            self.busy[slot].set_result(results)
        await settle()


def run_clean(main: Coroutine[Any, Any, T]) -> T:
    """Runs a test's coroutine; fails if the loop was told of any exception that was never awaited."""
    problems: list[str] = []
    gc.freeze()  # so that the collection below looks at this test's objects only, which makes it quick
    try:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda _, context: problems.append(str(context)))
            result = runner.run(main)
            gc.collect()
    finally:
        gc.unfreeze()
    assert not problems, problems
    return result
