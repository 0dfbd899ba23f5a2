"""Threads for blocking work that is no inference: a disk or a file that hangs takes nothing else with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Aside:
    """One thread of its own, with a bound on what waits for it and on how long.

    Args:
        name: of the thread.
        seconds: longest that a piece may wait and take.
        waiting: pieces that may wait.
    """

    def __init__(self, name: str, seconds: float, waiting: int = 64) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._seconds, self._waiting = seconds, waiting
        self._pieces = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What the work gives. One that takes too long goes on in its thread, and is not waited for.

        Raises:
            TimeoutError: too much waits already, or it was not done in time.
            Exception: of the work.
        """
        if self._pieces >= self._waiting:
            raise TimeoutError("too much waits already")
        loop = asyncio.get_running_loop()

        def ended(_: Future[Any]) -> None:  # in the thread; the loop may be closed by now
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended)

        self._pieces += 1
        future = self._threads.submit(work)
        future.add_done_callback(ended)
        async with asyncio.timeout(self._seconds):
            return await asyncio.wrap_future(future)

    def _ended(self) -> None:
        self._pieces -= 1
