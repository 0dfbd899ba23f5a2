"""The batcher when an item goes without a result: out of time, its client gone, or the service stopping."""

from __future__ import annotations

import asyncio

import pytest

from service.engine.batcher import Batcher
from service.errors import DeadlineExceeded, NotReady
from tests.service.engine.bench import Bench, outcome
from tests.service.engine.clock import Device, run_clean, settle


def test_an_item_expires_in_the_queue_at_its_deadline() -> None:
    async def main() -> None:
        bench = Bench()
        (first,) = await bench.send("a")
        (second,) = await bench.send("b", deadline=5.0)
        await bench.clock.advance(4.999)
        assert not second.done()
        await bench.clock.advance(0.001)
        assert isinstance(outcome(second), DeadlineExceeded)
        assert (bench.batcher.queue_depth, bench.notes.drops) == (0, ["expired"])
        await bench.device.finish()
        assert (outcome(first), bench.device.batches) == ("<a>", [["a"]])
        bench.check_idle()

    run_clean(main())


def test_an_item_due_while_the_loop_was_held_up_does_not_reach_the_device() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.send("a")
        tasks = await bench.send("b", deadline=5.0) + await bench.send("c")
        bench.clock.skip(6.0)
        await bench.device.finish()
        assert bench.device.batches == [["a"], ["c"]]
        assert isinstance(outcome(tasks[0]), DeadlineExceeded)
        await bench.device.finish()
        assert bench.notes.drops == ["expired"]
        bench.check_idle()

    run_clean(main())


def test_a_deadline_on_the_device_ends_the_wait_and_not_the_batch() -> None:
    async def main() -> None:
        bench = Bench()
        hasty, patient = await bench.send("a", deadline=1.0) + await bench.send("b")
        assert bench.device.batches == [["a"]]
        await bench.clock.advance(1.0)
        assert isinstance(outcome(hasty), DeadlineExceeded)
        assert bench.batcher.inflight == 1
        await bench.device.finish()
        await bench.device.finish()
        assert outcome(patient) == "<b>"
        assert bench.notes.drops == ["expired"]
        bench.check_idle()

    run_clean(main())


def test_a_deadline_in_the_past_is_refused_and_timers_are_called_off() -> None:
    async def main() -> None:
        bench = Bench()
        (late,) = await bench.send("a", deadline=0.0)
        assert isinstance(outcome(late), DeadlineExceeded)
        (task,) = await bench.send("b", deadline=9.0)
        await bench.device.finish()
        assert (outcome(task), bench.clock.pending) == ("<b>", 0)
        assert bench.device.batches == [["b"]]

    run_clean(main())


def test_a_client_that_leaves_frees_its_place_at_once() -> None:
    async def main() -> None:
        bench = Bench(max_queue=2)
        await bench.send("a")
        waiting = await bench.send("b", "c", deadline=60.0)
        waiting[0].cancel()
        await settle()
        assert (bench.batcher.queue_depth, bench.notes.drops) == (1, ["cancelled"])
        await bench.send("d")
        await bench.device.finish()
        assert bench.device.batches == [["a"], ["c", "d"]]
        await bench.device.finish()
        assert bench.clock.pending == 0
        bench.check_idle()

    run_clean(main())


def test_clients_that_leave_in_the_turn_of_the_dispatch_never_reach_the_device() -> None:
    async def main() -> None:
        bench = Bench()
        tasks = [asyncio.create_task(bench.batcher.submit(item)) for item in "ab"]
        await asyncio.sleep(0)  # both have submitted, the dispatch comes next
        tasks[0].cancel()
        await settle()
        assert bench.device.batches == [["b"]]
        await bench.device.finish()
        (first,) = await bench.send("c")
        (second,) = await bench.send("d")
        second.cancel()
        bench.device.busy[0].set_result(None)
        await settle()
        assert outcome(first) == "<c>"
        assert bench.device.batches == [["b"], ["c"]]
        assert bench.notes.drops == ["cancelled", "cancelled"]
        bench.check_idle()

    run_clean(main())


def test_a_client_that_leaves_during_the_run_does_not_disturb_the_others() -> None:
    async def main() -> None:
        bench = Bench()
        gone, stays = await bench.send("a", "b")
        gone.cancel()
        await settle()
        assert gone.cancelled()
        assert bench.notes.drops == ["cancelled"]
        await bench.device.finish()
        assert outcome(stays) == "<b>"
        bench.check_idle()

    run_clean(main())


def test_a_client_that_leaves_as_its_result_comes_was_not_dropped() -> None:
    async def main() -> None:
        bench = Bench()
        (task,) = await bench.send("a")
        bench.device.busy[0].set_result(None)
        while bench.batcher.inflight:  # noqa: ASYNC110 - turn by turn, to stop just before the client's
            await asyncio.sleep(0)
        assert task.cancel(), "the client has its result, and has not seen it yet"
        await settle()
        assert task.cancelled()
        assert bench.notes.drops == []
        bench.check_idle()

    run_clean(main())


def test_drain_finishes_what_is_there_and_refuses_the_rest() -> None:
    async def main() -> None:
        bench = Bench(linger=1.0)
        tasks = await bench.send("a", "b", "c", "d", "e", "f")
        assert bench.device.batches == [["a", "b", "c", "d"]]
        draining = asyncio.create_task(bench.batcher.drain(grace=10.0))
        await settle()
        (refused,) = await bench.send("x")
        assert isinstance(outcome(refused), NotReady)
        await bench.device.finish()
        assert not draining.done()
        await bench.device.finish()  # the rest did not linger
        assert await draining
        assert [outcome(task) for task in tasks] == [f"<{item}>" for item in "abcdef"]
        assert bench.clock.pending <= 1  # the lingering timer at most, which finds nothing
        assert await bench.batcher.drain(grace=1.0), "a second drain has nothing to do"
        bench.check_idle()

    run_clean(main())


def test_drain_fails_what_is_left_when_its_grace_ends() -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.send("a") + await bench.send("b", deadline=60.0)
        draining = [asyncio.create_task(bench.batcher.drain(grace=5.0)) for _ in range(2)]
        await bench.clock.advance(5.0)
        assert [await each for each in draining] == [False, False]
        for task in tasks:
            assert isinstance(outcome(task), NotReady)
        await bench.device.finish()  # the run could not be called off
        assert bench.device.batches == [["a"]]
        bench.check_idle()

    run_clean(main())


def test_drain_ends_when_the_last_item_leaves_or_expires() -> None:
    async def main() -> None:
        bench = Bench(linger=9.0)
        assert await bench.batcher.drain(grace=0.0)
        bench = Bench()
        await bench.send("a")
        (task,) = await bench.send("b", deadline=2.0)
        draining = asyncio.create_task(bench.batcher.drain(grace=60.0))
        await bench.clock.advance(2.0)
        assert isinstance(outcome(task), DeadlineExceeded)
        await bench.device.finish()
        assert await draining
        bench.check_idle()

    run_clean(main())


def test_the_real_clock_drives_deadlines() -> None:
    async def main() -> None:
        device = Device()
        batcher: Batcher[str, str] = Batcher(device.run, max_batch=1, max_queue=1)
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await batcher.submit("a", deadline=now + 0.01)
        batcher.close()
        await device.finish()

    run_clean(main())
