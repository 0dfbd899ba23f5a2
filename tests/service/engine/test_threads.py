"""Threads for the event loop: order, errors, cancellation, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial

import pytest

from service.engine import threads as module
from service.engine.threads import Aside, Threads


class Result:
    pass


def test_results_and_errors_come_back_in_order() -> None:
    def work(number: int) -> tuple[int, str]:
        if number % 3 == 0:
            raise ValueError(number)
        return number, threading.current_thread().name

    async def go() -> list[tuple[int, str] | BaseException]:
        threads = Threads(1, "some")
        try:
            return await asyncio.gather(
                *(threads.run(work, number) for number in range(30)), return_exceptions=True
            )
        finally:
            threads.close()

    for number, found in enumerate(asyncio.run(go())):
        if number % 3 == 0:
            assert isinstance(found, ValueError)
            assert found.args == (number,)
        else:
            assert found == (number, "some_0")


def test_as_many_at_once_as_there_are_threads() -> None:
    met = threading.Barrier(3)

    async def go() -> None:
        threads = Threads(3, "some")
        await asyncio.wait_for(asyncio.gather(*(threads.run(met.wait) for _ in range(3))), 60)
        threads.close()

    asyncio.run(go())


def test_what_is_cancelled_before_its_turn_is_not_done() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), list[int]()

    def hold() -> None:
        begun.set()
        go_on.wait(60)
        done.append(0)

    async def go() -> None:
        threads = Threads(1, "some")
        first = asyncio.create_task(threads.run(hold))
        second = asyncio.create_task(threads.run(done.append, 1))
        third = asyncio.create_task(threads.run(done.append, 2))
        await asyncio.to_thread(begun.wait, 60)
        first.cancel()  # it has begun: it goes on
        second.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await third
        assert first.cancelled()
        assert second.cancelled()
        threads.close()

    asyncio.run(go())
    assert done == [0, 2]


def test_closed_threads_end_after_their_work_and_take_no_more() -> None:
    async def go(threads: Threads) -> None:
        tasks = [asyncio.create_task(threads.run(time.sleep, 0.01)) for _ in range(5)]
        await asyncio.sleep(0)
        threads.close()
        threads.close()
        await asyncio.gather(*tasks)
        with pytest.raises(RuntimeError):
            await threads.run(time.sleep, 0)

    asyncio.run(go(Threads(2, "ending")))
    until(lambda: not any(thread.name.startswith("ending") for thread in threading.enumerate()))


def test_a_loop_that_has_ended_does_not_end_the_thread() -> None:
    threads, go_on = Threads(1, "some"), threading.Event()

    async def leave() -> None:
        task = asyncio.create_task(threads.run(go_on.wait, 60))
        await asyncio.sleep(0)
        task.cancel()

    async def again() -> int:
        return await threads.run(int, "3")

    asyncio.run(leave())
    go_on.set()
    assert asyncio.run(again()) == 3
    threads.close()


def test_nothing_is_kept_of_what_is_done() -> None:
    async def go() -> weakref.ref[Result]:
        threads = Threads(1, "some")
        found = weakref.ref(await threads.run(Result))
        await threads.run(int)
        return found

    assert asyncio.run(go())() is None


def test_an_error_keeps_nothing_once_it_is_dropped() -> None:
    held: list[weakref.ref[Result]] = []

    def fail() -> None:
        result = Result()
        held.append(weakref.ref(result))
        raise ValueError

    async def go() -> None:
        threads = Threads(1, "some")
        with contextlib.suppress(ValueError):
            await threads.run(fail)
        await threads.run(int)
        assert held[0]() is None  # at once, not when the collector finds a cycle

    gc.disable()
    try:
        asyncio.run(go())
    finally:
        gc.enable()


def test_a_stop_iteration_is_an_error_like_others() -> None:
    async def go() -> None:
        threads = Threads(1, "some")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await threads.run(next, iter(()))
        threads.close()

    asyncio.run(go())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_blocking_work_gives_its_result_or_its_error() -> None:
    async def go() -> None:
        aside = Aside("test", 60.0)
        assert await aside.run(lambda: 7) == 7
        with pytest.raises(OSError, match="full"):
            await aside.run(lambda: (_ for _ in ()).throw(OSError("full")))

    asyncio.run(go())


def test_blocking_work_that_hangs_is_given_up_and_costs_others_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PIECES", 3)

    async def go() -> None:
        begun, hang, done = threading.Event(), threading.Event(), []
        kept: weakref.WeakSet[Result] = weakref.WeakSet()

        def late(body: Result) -> None:
            done.append("late")

        aside = Aside("test", 60.0)
        first = asyncio.create_task(aside.run(lambda: begun.set() or hang.wait(60)))
        await asyncio.to_thread(begun.wait, 60)
        aside._seconds = 0.01
        for _ in range(3):  # given up before they begin; they hold no place
            kept.add(body := Result())
            with pytest.raises(TimeoutError):
                await aside.run(partial(late, body))
        del body
        await asyncio.sleep(0)
        gc.collect()  # the errors' traces
        assert not kept
        aside._seconds = 60.0
        waiting = [asyncio.create_task(aside.run(lambda: 7)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError, match="too much"):
            await aside.run(lambda: None)
        hang.set()
        assert await asyncio.gather(first, *waiting) == [True, 7, 7]
        assert done == []

    asyncio.run(go())
