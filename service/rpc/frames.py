"""Streams: frames in, outcomes out, in the order in which the frames came, a bounded number under way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from service.errors import INTERNAL, NotReady, Problem, problem_of

logger = logging.getLogger(__name__)

Q = TypeVar("Q")
R = TypeVar("R")


async def in_order(
    requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[R]], ahead: int, stop: asyncio.Event
) -> AsyncIterator[R | Problem]:
    """Answers a stream of requests; one that fails gives its problem, and the stream goes on.

    No more than `ahead` requests are read before the oldest one's outcome has been taken, so a sender that is
    too fast, or a receiver that is too slow, waits in the transport. Closing the iterator cancels what is
    under way.

    Args:
        requests: read one at a time.
        answer: gives one request's result or raises.
        ahead: most requests under way, at least 1.
        stop: once set, no more is read, and what is under way is answered.

    Raises:
        NotReady: after the last outcome, if it was `stop` that ended the stream.
    """
    under_way: deque[asyncio.Task[R | Problem]] = deque()
    source = aiter(requests)
    reading: asyncio.Task[Q] | None = None
    stopped = asyncio.create_task(stop.wait())
    ended = False
    try:
        while not ended or under_way:
            if reading is None and not ended and len(under_way) < ahead:
                reading = asyncio.create_task(_next(source))
            # of those under way only the oldest matters: the others' outcomes come after its
            waited: list[asyncio.Task[Any]] = [*([] if reading is None else [reading]), *list(under_way)[:1]]
            if not ended:
                waited.append(stopped)
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                done, reading = reading, None
                try:
                    under_way.append(asyncio.create_task(_answered(answer, done.result())))
                except StopAsyncIteration:
                    ended = True
            if stopped.done() and not ended:
                break
            while under_way and under_way[0].done():
                yield under_way.popleft().result()
        while under_way:
            yield await under_way.popleft()
        if not ended:
            raise NotReady("the service is stopping; open the stream again")
    finally:
        for task in (*under_way, stopped, *([reading] if reading is not None else [])):
            task.cancel()


async def _next(source: AsyncIterator[Q]) -> Q:
    return await anext(source)


async def _answered(answer: Callable[[Q], Awaitable[R]], request: Q) -> R | Problem:
    try:
        return await answer(request)
    except Exception as exc:
        problem = problem_of(exc)
        if problem.kind is INTERNAL:
            logger.error("a frame of a stream failed", exc_info=exc)
        return problem
