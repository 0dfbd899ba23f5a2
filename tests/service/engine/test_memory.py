"""The budget of memory: what fits, what waits, what is refused, and that everything comes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ImageTooLarge
from service.engine.memory import BodyReservation, MemoryBudget
from service.errors import DeadlineExceeded, OutOfMemory
from tests.paths import ROOT
from tests.service.engine.reserve import reserve


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_does_not_fit_waits_in_the_order_of_arrival() -> None:
    async def go() -> None:
        budget, order = MemoryBudget(320), []

        async def one(name: str, size: int, done: asyncio.Event) -> None:
            async with reserve(budget, size):
                order.append(name)
                await done.wait()

        first, rest = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(one("first", 200, first))
            await turns()
            group.create_task(one("large", 300, rest))
            await turns()
            group.create_task(one("middle", 100, rest))  # fits now, and waits its turn
            group.create_task(one("small", 10, first))  # takes nothing from those that wait
            await turns()
            assert order == ["first", "small"]
            first.set()
            await turns()
            assert order == ["first", "small", "large"]
            rest.set()
        assert order == ["first", "small", "large", "middle"]
        assert budget.used == 0

    asyncio.run(go())


def test_what_can_never_fit_is_refused_at_once() -> None:
    async def go() -> None:
        budget = MemoryBudget(100)
        with pytest.raises(ImageTooLarge):
            await budget.acquire(101)
        async with reserve(budget, 100):
            pass

    asyncio.run(go())


def test_waiting_ends_at_the_deadline_and_leaves_nothing_behind() -> None:
    async def go() -> None:
        budget = MemoryBudget(100)
        async with reserve(budget, 60):
            with pytest.raises(DeadlineExceeded):
                await budget.acquire(50, time.monotonic() - 1)
            waiting = asyncio.create_task(budget.acquire(50))
            await turns()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert budget.used == 0

    asyncio.run(go())


def test_a_grant_in_the_moment_of_a_cancellation_comes_back() -> None:
    async def go() -> None:
        budget = MemoryBudget(100)
        await budget.acquire(100)
        waiting = asyncio.create_task(budget.acquire(100))
        await turns()
        budget.release(100)  # grants it
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert budget.used == 0

    asyncio.run(go())


def test_bodies_have_half_as_much_besides_and_are_refused_at_once() -> None:
    async def go() -> None:
        budget = MemoryBudget(100)
        async with reserve(budget, 100):  # decoding does not starve bodies
            with BodyReservation(budget) as one, BodyReservation(budget) as other:
                one.grow(30)
                other.grow(20)
                with pytest.raises(OutOfMemory):
                    other.grow(1)
                assert budget.bodies == 50
            assert budget.bodies == 0

    asyncio.run(go())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 4), st.booleans()), min_size=1, max_size=25),
    st.integers(1, 100),
)
def test_never_more_than_the_budget_and_all_of_it_comes_back(
    works: list[tuple[int, int, bool]], total: int
) -> None:
    async def go() -> None:
        budget = MemoryBudget(total)

        async def one(size: int, steps: int) -> None:
            try:
                async with reserve(budget, size):
                    assert budget.used <= total
                    await turns(steps)
            except ImageTooLarge:
                assert size > total

        tasks = []
        for size, steps, leaves in works:
            tasks.append(asyncio.create_task(one(size, steps)))
            await turns(1)
            if leaves:
                tasks[len(tasks) // 2].cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.used == 0

    asyncio.run(go())


KEPT = """
import resource, sys
import numpy as np
from service.engine.memory import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        image, resized = np.ones((600, 800, 3), np.uint8), np.ones((224, 224, 3), np.uint8)
        del image, resized
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def test_memory_of_one_image_is_kept_for_the_next() -> None:
    command = [sys.executable, "-c", KEPT, "kept"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100, "pages are taken anew for each image"


ARENAS = """
import ctypes, re, sys, threading
from service.engine.memory import share_arena
if sys.argv[1] == "shared":
    share_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
threads = [threading.Thread(target=libc.malloc, args=(1000,)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(len(re.findall("<heap ", open(sys.argv[2]).read())))
"""


@pytest.mark.parametrize("how", ["shared", "own"])
def test_threads_share_their_memory(how: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ARENAS, how, str(tmp_path / "info.xml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (int(done.stdout) == 1) == (how == "shared")
