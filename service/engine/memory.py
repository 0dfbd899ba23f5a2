"""A worker's budget of memory for what requests bring: bodies being received and decoded images.

What a request will hold is known before it holds it: a body's length as it arrives, an image's decoded size
from its header. What does not fit now waits in the order of arrival, within its deadline; what can never fit
is refused at once. One event loop, no locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import time
from collections import deque
from typing import Final

from models.errors import ImageTooLarge
from service.errors import DeadlineExceeded, OutOfMemory

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Of mallopt(3)."""

KEPT: Final = 4 * 1024 * 1024


class MemoryBudget:
    """Bytes that requests of one worker may hold at once.

    Args:
        total: bytes for decoded images. Bodies may take half as many besides: neither starves the other.

    Attributes:
        used: bytes that decoded images hold now.
        bodies: bytes that bodies hold now.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.bodies = 0
        self._peak = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, size: int, deadline: float | None = None) -> None:
        """Holds `size` bytes until `release`; waits for them until `deadline` (monotonic seconds).

        Raises:
            ImageTooLarge: more than the whole budget.
            DeadlineExceeded: they were not free in time.
        """
        if size > self.total:
            raise ImageTooLarge(f"the image takes {size} bytes to decode; at most {self.total} are available")
        # a small image does not wait behind large ones, which leave room for it
        if self.used + size <= self.total and (not self._waiters or size <= self.total // 32):
            self._hold(size)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, future)
        self._waiters.append(entry)
        left = None if deadline is None else deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                await future
        except BaseException as error:
            if future.done() and not future.cancelled():  # granted in the very moment of the cancellation
                self.release(size)
            else:
                if entry in self._waiters:
                    self._waiters.remove(entry)
                self._grant()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("the deadline passed before there was memory for the image") from None
            raise

    def release(self, size: int) -> None:
        """Gives back what `acquire` held."""
        self.used -= size
        self._grant()
        self._trim()

    def _hold(self, size: int) -> None:
        self.used += size
        self._peak = max(self._peak, self.used + self.bodies)

    def _trim(self) -> None:
        """Gives freed memory back to the system once much has been held and little is."""
        if self._peak >= self.total // 8 and self.used + self.bodies <= self.total // 64:
            self._peak = 0
            asyncio.get_running_loop().run_in_executor(None, trim)

    def _grant(self) -> None:
        while self._waiters and self.used + self._waiters[0][0] <= self.total:
            size, future = self._waiters.popleft()
            if not future.done():
                self._hold(size)
                future.set_result(None)


class BodyReservation:
    """Memory of one request's body, which grows as the body arrives; a context manager that gives it back.

    Attributes:
        size: bytes that it holds.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.size = 0

    def __enter__(self) -> BodyReservation:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.bodies -= self.size
        self.size = 0
        self._budget._trim()

    def grow(self, size: int) -> None:
        """So many more bytes have come, or are about to.

        Raises:
            OutOfMemory: the bodies of this worker have no more room.
        """
        budget = self._budget
        if budget.bodies + size > budget.total // 2:
            raise OutOfMemory("this server holds as many bytes of requests as it may")
        self.size += size
        budget.bodies += size
        budget._peak = max(budget._peak, budget.used + budget.bodies)


def trim() -> None:
    """Gives freed memory back to the system, of which the allocator keeps what was freed in small pieces."""
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def share_arena() -> None:
    """Makes threads that start from now on allocate where the first does, and so does what is forked later.

    By default each has memory of its own, whose free pieces no other thread takes: with all models, whose
    networks are made in a thread for each, 2% of a worker's memory.
    """
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def keep_freed(size: int = KEPT) -> None:
    """Makes the allocator keep so many bytes that are freed, until `trim`.

    By default it gives back what a decoded image had and takes new pages for the next one: a front end, which
    prepares one image at a time, spent a third of its CPU time with that.
    """
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(threshold, size)
