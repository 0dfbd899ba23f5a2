"""Long work, outside the models' threads: large images, drawings, explanations.

It runs in few threads, in order of arrival, and each piece has its memory reserved before it begins. So a
small image never waits for a large one; they only share the processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from service.engine.memory import MemoryBudget
from service.errors import DeadlineExceeded, NotReady, Overloaded

T = TypeVar("T")

WAITING = 32
"""Most pieces that wait or run at once, where nothing else bounds them."""


class Call:
    """One piece of work while it runs in its thread.

    Attributes:
        deadline: on the monotonic clock, or None.
        cancelled: its client has disconnected.
        kept: the caller has the memory of its result.
    """

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.cancelled = False
        self.kept = False

    def check(self) -> None:
        """To be called between steps that cannot be interrupted.

        Raises:
            DeadlineExceeded: the result is of no use any more.
        """
        if self.cancelled or (self.deadline is not None and time.monotonic() >= self.deadline):
            raise DeadlineExceeded("the deadline passed before the image was done")


class Offload:
    """Threads for long work.

    Args:
        memory: of the worker.
        threads: pieces that run at once.
    """

    def __init__(self, memory: MemoryBudget, threads: int = 1) -> None:
        self.memory = memory
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="offload")
        # the pool would queue too, but keeps what was given up, with its image, until a thread is free
        self._free = asyncio.Semaphore(threads)
        self._pieces = 0
        self._running: dict[Call, float] = {}

    def longest(self, now: float) -> float:
        """Seconds that the longest of the pieces under way has run."""
        return max((now - began for began in tuple(self._running.values())), default=0.0)

    async def run(
        self,
        work: Callable[[Call], T],
        deadline: float | None = None,
        *,
        memory: int = 0,
        keep: int = 0,
        most: int = WAITING,
    ) -> T:
        """Does a piece of work in one of the threads.

        Args:
            work: is given its `Call`, whose `check` it calls between its steps.
            deadline: on the monotonic clock.
            memory: bytes that it holds at its peak.
            keep: bytes of them that its result holds: the caller releases them.
            most: pieces that may wait or run already.

        Raises:
            Overloaded: too many pieces wait.
            DeadlineExceeded: it was not done in time.
            ImageTooLarge: more memory than there is.
        """
        if self._pieces >= most:
            raise Overloaded("too much long work waits already", 1.0)
        call = Call(deadline)
        self._pieces += 1
        started = False
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                # memory first: what has a thread waits for nothing else
                await self.memory.acquire(memory)
                try:
                    await self._free.acquire()
                except BaseException:
                    self.memory.release(memory)
                    raise
                try:
                    future = self._threads.submit(self._execute, call, work)
                except RuntimeError:
                    self._free.release()
                    self.memory.release(memory)
                    raise NotReady("the service is stopping") from None
                started = True
                loop = asyncio.get_running_loop()

                def ended(_: Future[Any]) -> None:  # in the thread; the loop may be closed by now
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(self._release, call, future, memory, keep)

                future.add_done_callback(ended)
                return await asyncio.wrap_future(future)
        except BaseException as error:
            if call.kept:  # the result came in the very moment of the cancellation
                self.memory.release(keep)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("the deadline passed before the image was done") from None
            raise
        finally:
            call.cancelled = True  # whatever of it runs still is of no use
            if not started:
                self._pieces -= 1

    def close(self) -> None:
        """Accepts no more work."""
        self._threads.shutdown(wait=False)

    def _execute(self, call: Call, work: Callable[[Call], T]) -> T:
        call.check()
        self._running[call] = time.monotonic()
        try:
            return work(call)
        finally:
            del self._running[call]

    def _release(self, call: Call, future: Future[Any], memory: int, keep: int) -> None:
        """In the loop, when the thread is done with it, however long after its client disconnected."""
        call.kept = not (call.cancelled or future.cancelled() or future.exception())
        self._pieces -= 1
        self._free.release()
        self.memory.release(memory - keep if call.kept else memory)
