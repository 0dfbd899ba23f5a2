"""How the batcher forms batches, rule by rule, on a clock and a device that the test holds in its hands."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Any

import pytest

from service.engine.batcher import BatchResult
from service.errors import Overloaded
from tests.service.engine.bench import Bench, outcome
from tests.service.engine.clock import run_clean


def test_an_idle_device_gets_an_item_at_once() -> None:
    async def main() -> None:
        bench = Bench()
        (task,) = await bench.send("a")
        assert bench.device.batches == [["a"]]
        await bench.clock.advance(0.25)
        await bench.device.finish()
        assert await task == BatchResult("<a>", queue_s=0.0, compute_s=0.25, batch_size=1)
        assert bench.notes.batches == [(1, [0.0], 0.25)]
        bench.check_idle()

    run_clean(main())


def test_a_burst_of_one_turn_shares_a_batch() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.send("a", "b", "c")
        assert bench.device.batches == [["a", "b", "c"]]
        await bench.device.finish()

    run_clean(main())


def test_batches_grow_while_the_device_is_busy_up_to_the_largest() -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.send("a")
        for item in "bcdefg":
            tasks += await bench.send(item)
        assert (bench.batcher.queue_depth, bench.batcher.inflight) == (6, 1)
        assert (bench.notes.depth, bench.notes.inflight) == (6, 1)
        await bench.clock.advance(2.0)
        await bench.device.finish()
        await bench.clock.advance(1.0)
        await bench.device.finish()
        await bench.device.finish()
        assert bench.device.batches == [["a"], ["b", "c", "d", "e"], ["f", "g"]]
        assert tasks[1].result() == BatchResult("<b>", queue_s=2.0, compute_s=1.0, batch_size=4)
        assert [outcome(task) for task in tasks] == [f"<{item}>" for item in "abcdefg"]
        bench.check_idle()

    run_clean(main())


def test_two_slots_hold_two_batches_and_never_three() -> None:
    async def main() -> None:
        bench = Bench(slots=2)
        for item in "abcde":
            await bench.send(item)
        assert bench.device.batches == [["a"], ["b"]]
        await bench.device.finish(slot=1)
        assert bench.device.batches[2:] == [["c", "d", "e"]]
        await bench.device.finish()
        await bench.device.finish()
        assert bench.device.peak == 2
        bench.check_idle()

    run_clean(main())


def test_only_equal_keys_share_a_batch_and_the_oldest_head_goes_first() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.send("first", key="x")
        await bench.send("b1", "b2", key="b")
        await bench.send("a1", key="a")
        await bench.send("b3", "b4", "b5", key="b")
        await bench.send("a2", key="a")
        for _ in range(4):
            await bench.device.finish()
        assert bench.device.batches == [["first"], ["b1", "b2", "b3", "b4"], ["a1", "a2"], ["b5"]]
        bench.check_idle()

    run_clean(main())


def test_linger_counts_from_the_first_arrival() -> None:
    async def main() -> None:
        bench = Bench(linger=0.010)
        await bench.send("a")
        await bench.clock.advance(0.006)
        await bench.send("b")
        await bench.clock.advance(0.003)
        assert bench.device.batches == []
        await bench.clock.advance(0.001)
        assert bench.device.batches == [["a", "b"]]
        await bench.device.finish()
        bench.check_idle()

    run_clean(main())


def test_linger_ends_with_a_full_batch_and_does_not_hold_up_another_key() -> None:
    async def main() -> None:
        bench = Bench(linger=0.010)
        await bench.send("a", key=1)
        await bench.send("b", "c", "d", "e", key=2)
        assert bench.device.batches == [["b", "c", "d", "e"]]
        await bench.clock.advance(0.020)
        await bench.device.finish()  # the time on the device counts as lingering
        assert bench.device.batches[1:] == [["a"]]
        await bench.device.finish()
        bench.check_idle()

    run_clean(main())


def test_linger_starts_anew_when_the_first_has_left() -> None:
    async def main() -> None:
        bench = Bench(linger=0.010)
        (first,) = await bench.send("a")
        await bench.clock.advance(0.006)
        await bench.send("b")
        first.cancel()
        await bench.clock.advance(0.009)
        assert bench.device.batches == []
        await bench.clock.advance(0.001)
        assert bench.device.batches == [["b"]]
        await bench.device.finish()

    run_clean(main())


def test_a_full_queue_refuses_at_once_and_tells_when_it_should_have_drained() -> None:
    async def main() -> None:
        bench = Bench(max_queue=4)
        tasks = await bench.send("a")
        tasks += await bench.send(*"bcde")
        (early,) = await bench.send("x")
        assert isinstance(outcome(early), Overloaded)
        assert outcome(early).retry_after == 1.0  # nothing measured yet
        await bench.clock.advance(2.0)
        await bench.device.finish()  # one item in 2 s
        tasks += await bench.send(*"fghi")
        (late,) = await bench.send("y")
        assert outcome(late).retry_after == pytest.approx(8.0)
        assert bench.notes.drops == ["full", "full"]
        await bench.device.finish()
        await bench.device.finish()
        assert [outcome(task) for task in tasks] == [f"<{item}>" for item in "abcdefghi"]
        assert bench.batcher.retry_after == 0.05
        bench.check_idle()

    run_clean(main())


def test_retry_after_follows_the_rate_of_busy_time_only() -> None:
    async def main() -> None:
        bench = Bench(max_queue=100, slots=2, max_batch=2)
        for _ in range(30):  # two slots, each 2 items in 1 s, ending together: 4/s; then an idle hour
            await bench.send("a", "b", "c", "d")
            await bench.clock.advance(1.0)
            await bench.device.finish()
            await bench.device.finish()
            await bench.clock.advance(3600.0)
        await bench.send(*range(4))
        await bench.send(*range(40))
        assert bench.batcher.retry_after == pytest.approx(10.0, rel=0.2)  # the latest batch weighs most
        while bench.device.busy:
            await bench.device.finish()
        bench.check_idle()

    run_clean(main())


@pytest.mark.parametrize(("max_queue", "slots"), [(0, 1), (3, 1), (0, 2), (5, 2)])
def test_a_burst_that_the_slots_and_the_queue_can_hold_is_not_refused(max_queue: int, slots: int) -> None:
    async def main() -> None:
        bench = Bench(max_queue=max_queue, slots=slots)
        room = 4 * slots + max_queue
        tasks = await bench.send(*range(room + 1))
        assert [task.done() for task in tasks] == [False] * room + [True]
        assert isinstance(outcome(tasks[-1]), Overloaded)
        while bench.device.busy:
            await bench.device.finish()
        assert [outcome(task) for task in tasks[:-1]] == [f"<{item}>" for item in range(room)]
        bench.check_idle()

    run_clean(main())


def test_a_batch_runs_in_the_batchers_context_and_not_in_a_clients() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    async def run(items: Sequence[str]) -> Sequence[str]:
        seen.append(request.get())
        return items

    async def main() -> None:
        bench = Bench(run)

        async def client() -> None:
            request.set("mine")
            await bench.batcher.submit("a")

        await asyncio.create_task(client())
        assert seen == ["none"]

    run_clean(main())


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"slots": 0}, {"max_queue": -1}, {"linger": -0.1}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Bench(**options)
