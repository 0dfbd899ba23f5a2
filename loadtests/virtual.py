"""An event loop whose time passes only when nothing is left to do: hours of a simulation take seconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Where the loop would wait for a timer, the time is that of the timer at once."""

    skip: Callable[[float], None]

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that never comes")
        if timeout > 0:
            self.skip(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time begins at 0 and jumps from timer to timer."""

    def __init__(self) -> None:
        self._virtual = 0.0
        selector = _Selector()
        selector.skip = self._skip
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual

    def _skip(self, seconds: float) -> None:
        self._virtual += seconds


class VirtualClock:
    """The batcher's clock on a running `VirtualLoop`."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, fn: Callable[..., None], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, fn, *args)


class Machine:
    """Cores that are shared in equal parts by the threads that compute: processor sharing.

    Args:
        cores: their number.
    """

    def __init__(self, cores: int) -> None:
        self._cores, self._at = cores, 0.0
        self._work: dict[asyncio.Future[None], tuple[float, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def compute(self, seconds: float, threads: int = 1) -> None:
        """Ends when so many threads have had a core for so many seconds each."""
        future = asyncio.get_running_loop().create_future()
        self._advance()
        self._work[future] = seconds, threads
        self._wait()
        await future

    def _speed(self) -> float:
        return min(1.0, self._cores / sum(threads for _, threads in self._work.values()))

    def _advance(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._work:
            passed = (now - self._at) * self._speed()
            for future, (seconds, threads) in list(self._work.items()):
                if seconds - passed > 1e-9:
                    self._work[future] = seconds - passed, threads
                    continue
                del self._work[future]
                if not future.done():
                    future.set_result(None)
        self._at = now

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._work:
            shortest = min(seconds for seconds, _ in self._work.values()) / self._speed()
            self._timer = asyncio.get_running_loop().call_later(shortest, self._tick)

    def _tick(self) -> None:
        self._advance()
        self._wait()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
