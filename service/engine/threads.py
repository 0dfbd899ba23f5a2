"""Threads that do work for one event loop: a job goes in, its result comes back as the loop's next callback.

`concurrent.futures` does the same with a second future, a lock and a condition for each job, and takes the
event loop twice to three times the CPU: 10 microseconds a job, a quarter of what else a batch costs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")
Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]

PIECES: Final = 64
"""Most that wait for an `Aside`."""


class Threads:
    """Some threads, started with the first job.

    Args:
        count: of threads.
        name: begins theirs.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._started = self._closed = False

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """What a function gives, called in one of the threads, in order of arrival.

        Cancelled before a thread takes it up, it is not called; once begun it goes on, and its result is
        dropped.

        Raises:
            RuntimeError: the threads are closed.
            Exception: what the function raises.
        """
        if self._closed:
            raise RuntimeError(f"the threads {self._name} are closed")
        if not self._started:
            self._started = True
            for index in range(self._count):
                threading.Thread(target=self._work_on, name=f"{self._name}_{index}", daemon=True).start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((loop, future, work, args))
        try:
            return await future
        finally:
            del future  # its error's trace holds this frame: no cycle may keep what a batch held

    def close(self) -> None:
        """Takes no more jobs; the threads end after those that were taken. Does not wait for them."""
        if not self._closed:
            self._closed = True
            for _ in range(self._count if self._started else 0):
                self._jobs.put(None)

    def _work_on(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, future, work, args = job
            if not future.cancelled():
                result, error = None, None
                try:
                    result = work(*args)
                except BaseException as raised:
                    error = raised
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(_settle, future, result, error)
                del result, error
            del job, loop, future, work, args  # nothing of it is kept until the next one comes


class Aside:
    """One such thread for blocking work that is no inference, with a bound on what waits for it and on how
    long: a disk or a file that hangs takes nothing else with it.

    Args:
        name: begins the thread's.
        seconds: longest that a piece may wait and take.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._thread, self._seconds = Threads(1, name), seconds
        self._pieces = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What the work gives. One that takes too long goes on in its thread, and is not waited for.

        Raises:
            TimeoutError: too much waits already, or it was not done in time.
            Exception: of the work.
        """
        if self._pieces >= PIECES:
            raise TimeoutError("too much waits already")
        self._pieces += 1
        held = [work]
        try:
            async with asyncio.timeout(self._seconds):
                return await self._thread.run(lambda: held.pop()())
        finally:
            held.clear()  # behind one that hangs, its place in the queue outlives it
            self._pieces -= 1


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:  # a future refuses a StopIteration
        future.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)
