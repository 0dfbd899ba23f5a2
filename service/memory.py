"""A worker's budget of memory for what requests bring: bodies on their way and decoded images.

What a request will hold is known before it holds it: a body's length as it arrives, an image's decoded size
from its header. What does not fit now waits in the order of arrival, within its deadline; what can never fit
is refused at once. One event loop, no locks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from models.errors import ImageTooLarge
from service.errors import DeadlineExceeded, OutOfMemory


class MemoryBudget:
    """Bytes that requests of one worker may hold at once.

    Args:
        total: bytes. Bodies on their way may take half of them, so that decoding never starves.

    Attributes:
        used: bytes that are held now, bodies included.
        bodies: bytes of bodies among them.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.bodies = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserve(self, size: int, deadline: float | None = None) -> AsyncIterator[None]:
        """Holds `size` bytes within the block; waits for them until `deadline` (monotonic seconds).

        Raises:
            ImageTooLarge: more than the whole budget.
            DeadlineExceeded: they were not free in time.
        """
        await self._acquire(size, deadline)
        try:
            yield
        finally:
            self._release(size)

    def body(self) -> BodyReservation:
        """The memory of one request's body, which grows as the body arrives."""
        return BodyReservation(self)

    async def _acquire(self, size: int, deadline: float | None) -> None:
        if size > self.total:
            raise ImageTooLarge(f"the image takes {size} bytes to decode; at most {self.total} are available")
        # a small image does not wait behind large ones, which leave room for it
        if self.used + size <= self.total and (not self._waiters or size <= self.total // 32):
            self.used += size
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
                self._release(size)
            else:
                if entry in self._waiters:
                    self._waiters.remove(entry)
                self._grant()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("the deadline passed before there was memory for the image") from None
            raise

    def _release(self, size: int) -> None:
        self.used -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiters and self.used + self._waiters[0][0] <= self.total:
            size, future = self._waiters.popleft()
            if not future.done():
                self.used += size
                future.set_result(None)


class BodyReservation:
    """Memory of one body; a context manager that gives it back."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size = 0

    def __enter__(self) -> BodyReservation:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.bodies -= self._size
        self._budget._release(self._size)
        self._size = 0

    def grow(self, size: int) -> None:
        """So many more bytes have come, or are about to.

        Raises:
            OutOfMemory: the bodies of this worker have no more room.
        """
        budget = self._budget
        if budget.bodies + size > budget.total // 2:
            raise OutOfMemory("this server holds as many bytes of requests as it may")
        self._size += size
        budget.bodies += size
        budget.used += size
