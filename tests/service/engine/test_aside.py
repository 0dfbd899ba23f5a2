"""Blocking work that hangs costs its caller a bounded time, and other callers none."""

from __future__ import annotations

import asyncio
import threading

import pytest

from service.engine.aside import Aside


def test_work_gives_its_result_or_its_error() -> None:
    async def go() -> None:
        aside = Aside("test", 60.0)
        assert await aside.run(lambda: 7) == 7
        with pytest.raises(OSError, match="full"):
            await aside.run(lambda: (_ for _ in ()).throw(OSError("full")))

    asyncio.run(go())


def test_work_that_hangs_is_given_up_and_no_more_is_taken_than_may_wait() -> None:
    async def go() -> None:
        hang = threading.Event()
        aside = Aside("test", 0.01, waiting=3)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await aside.run(lambda: hang.wait(60))
        # the first is in the thread; the others were given up before they began, and hold no place
        while aside._pieces > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
        aside._pieces = 3
        with pytest.raises(TimeoutError, match="too much"):
            await aside.run(lambda: None)
        aside._pieces = 1
        hang.set()
        while aside._pieces:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        aside._seconds = 60.0
        assert await aside.run(lambda: 7) == 7

    asyncio.run(go())
