"""Streams: frames in, outcomes out, in the order in which the frames came, a bounded number under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from service.errors import NotReady, Problem
from service.rpc.context import current
from service.rpc.receive import Frame, Frames

M = TypeVar("M")
R = TypeVar("R")


async def in_order(
    frames: Frames[M], answer: Callable[[M], Awaitable[R]], ahead: Callable[[M], int], stop: asyncio.Event
) -> AsyncIterator[R | Problem]:
    """Answers a stream of requests; one that fails gives its problem, and the stream goes on.

    A request is read while fewer than `ahead` are under way and there is room for its bytes, and always when
    none is, so a sender that is too fast, or a receiver that is too slow, waits in the transport. Closing the
    iterator cancels what is under way.

    Args:
        frames: read one at a time; each is closed when it has been answered.
        answer: gives one request's result or raises.
        ahead: most requests under way, at least 1, by the one that was read last.
        stop: once set, no more is read, and what is under way is answered.

    Raises:
        NotReady: after the last outcome, if it was `stop` that ended the stream.
    """
    under_way: deque[asyncio.Task[R | Problem]] = deque()
    reading: asyncio.Task[Frame[M] | None] | None = None
    most = 1
    stopped = asyncio.create_task(stop.wait())
    ended = False
    try:
        while not ended or under_way:
            if reading is None and not ended and (not under_way or (len(under_way) < most and frames.room)):
                reading = asyncio.create_task(_next(frames))
            # of those under way only the oldest matters: the others' outcomes come after its
            waited: list[asyncio.Task[Any]] = [*([] if reading is None else [reading]), *list(under_way)[:1]]
            if not ended:
                waited.append(stopped)
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                if (frame := reading.result()) is None:
                    ended = True
                else:
                    most = _ahead(frame, ahead)
                    under_way.append(asyncio.create_task(_answered(answer, frame)))
                    # even if it is cancelled before it begins
                    under_way[-1].add_done_callback(frame.close)
                reading = None
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


async def _next(frames: Frames[M]) -> Frame[M] | None:
    return await anext(frames, None)


def _ahead(frame: Frame[M], ahead: Callable[[M], int]) -> int:
    try:
        return ahead(frame.message())
    except Exception:  # it will be answered so
        return 1


async def _answered(answer: Callable[[M], Awaitable[R]], frame: Frame[M]) -> R | Problem:
    try:
        return await answer(frame.message())
    except Exception as exc:
        return current.get().problem_of(exc, ": a frame of its stream")
