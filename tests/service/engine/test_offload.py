"""Long work apart: its order, its deadline, and that its memory is held until its thread is done with it."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref

import pytest

from models.errors import ImageTooLarge
from service.engine.memory import MemoryBudget
from service.engine.offload import WAITING, Call, Offload
from service.errors import DeadlineExceeded, NotReady, Overloaded


async def settled(offload: Offload) -> None:
    async with asyncio.timeout(10):
        while offload._pieces:  # noqa: ASYNC110 (a thread ends; there is nothing to wait for)
            await asyncio.sleep(0.001)


def test_the_result_and_the_memory_it_keeps() -> None:
    async def go() -> None:
        memory = MemoryBudget(100)
        offload = Offload(memory)
        assert await offload.run(lambda _: "done", memory=100, keep=30) == "done"
        await settled(offload)
        assert memory.used == 30
        with pytest.raises(ValueError, match="bad"):
            await offload.run(_fail, memory=70, keep=30)
        await settled(offload)
        assert memory.used == 30
        with pytest.raises(ImageTooLarge):
            await offload.run(lambda _: None, memory=101)
        assert await offload.run(lambda _: "next") == "next"
        offload.close()
        with pytest.raises(NotReady):
            await offload.run(lambda _: None, memory=50)
        assert memory.used == 30

    asyncio.run(go())


def _fail(_: Call) -> None:
    raise ValueError("bad")


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
def test_memory_is_held_until_the_thread_is_done(how: str) -> None:
    async def go() -> None:
        memory = MemoryBudget(100)
        offload = Offload(memory)
        begun, go_on = threading.Event(), threading.Event()
        steps = []

        def work(call: Call) -> None:
            begun.set()
            go_on.wait(10)
            steps.append("first")
            call.check()
            steps.append("second")

        deadline = time.monotonic() + 0.2 if how == "deadline" else None
        task = asyncio.create_task(offload.run(work, deadline, memory=80, keep=10))
        await asyncio.to_thread(begun.wait, 10)
        if how == "cancelled":
            task.cancel()
        with pytest.raises(DeadlineExceeded if how == "deadline" else asyncio.CancelledError):
            await task
        assert memory.used == 80  # the thread has it still
        go_on.set()
        await settled(offload)
        assert memory.used == 0
        assert steps == ["first"]  # between two steps it sees that its result is of no use

    asyncio.run(go())


def test_what_is_given_up_while_it_waits_is_kept_by_nothing() -> None:
    class Body:
        pass

    async def go() -> None:
        memory = MemoryBudget(100)
        offload = Offload(memory)
        begun, go_on = threading.Event(), threading.Event()
        long = asyncio.create_task(offload.run(lambda _: begun.set() or go_on.wait(60)))
        await asyncio.to_thread(begun.wait, 60)
        body = Body()
        kept = weakref.ref(body)
        with pytest.raises(DeadlineExceeded):
            await offload.run(lambda _, body=body: body, time.monotonic() + 0.01, memory=80)
        del body
        await asyncio.sleep(0)
        assert (kept(), memory.used, offload._pieces) == (None, 0, 1)
        go_on.set()
        assert await long

    asyncio.run(go())


def test_one_at_a_time_and_a_bounded_number_waits() -> None:
    async def go() -> None:
        memory = MemoryBudget(1000)
        offload = Offload(memory)
        go_on = threading.Event()
        running, most = 0, 0

        def work(_: Call) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            go_on.wait(10)
            running -= 1

        tasks = [asyncio.create_task(offload.run(work, memory=10)) for _ in range(WAITING)]
        await asyncio.sleep(0.01)
        assert memory.used == 10 * WAITING  # memory first: what has a thread waits for nothing else
        with pytest.raises(Overloaded):
            await offload.run(work)
        assert offload.longest(time.monotonic() + 5) >= 5
        go_on.set()
        await asyncio.gather(*tasks)
        await settled(offload)
        assert (most, memory.used, offload.longest(time.monotonic())) == (1, 0, 0.0)

    asyncio.run(go())
