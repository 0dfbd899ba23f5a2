"""The batcher, rule by rule, under a clock and a device that the test holds in its hands."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from service.batcher import Batcher, Done, Observer, Reason
from service.errors import DeadlineExceeded, NotReady, Overloaded
from tests.unit.clock import Device, FakeClock, run_clean, settle


class Notes(Observer):
    """Keeps what the batcher tells of itself."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[float], float]] = []
        self.failures: list[tuple[int, str]] = []
        self.drops: list[Reason] = []
        self.depth = self.inflight = 0

    def on_batch(self, size: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        self.batches.append((size, list(queue_seconds), compute_seconds))

    def on_failure(self, size: int, error: Exception) -> None:
        self.failures.append((size, str(error)))

    def on_drop(self, reason: Reason) -> None:
        self.drops.append(reason)

    def on_depth(self, items: int) -> None:
        self.depth = items

    def on_inflight(self, batches: int) -> None:
        self.inflight = batches


class Bench:
    """A batcher on a fake clock and a held device, with the clients' tasks."""

    def __init__(
        self, run: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]] | None = None, **options: Any
    ):
        self.clock, self.device, self.notes = FakeClock(), Device(), Notes()
        options = {"max_batch": 4, "max_queue": 16} | options
        self.batcher: Batcher[Any, Any] = Batcher(
            run or self.device.run, clock=self.clock, observer=self.notes, **options
        )

    async def send(self, *items: Any, **options: Any) -> list[asyncio.Task[Done[Any]]]:
        tasks = [asyncio.create_task(self.batcher.submit(item, **options)) for item in items]
        await settle()
        return tasks

    def check_idle(self) -> None:
        assert (self.batcher.queue_depth, self.batcher.inflight) == (0, 0)
        assert (self.notes.depth, self.notes.inflight) == (0, 0)


def outcome(task: asyncio.Task[Done[Any]]) -> Any:
    """A finished task's result, or its exception."""
    assert task.done(), "still waiting"
    return task.exception() or task.result().result


def test_an_idle_device_gets_an_item_at_once() -> None:
    async def main() -> None:
        bench = Bench()
        (task,) = await bench.send("a")
        assert bench.device.batches == [["a"]]
        await bench.clock.advance(0.25)
        await bench.device.finish()
        assert await task == Done("<a>", queue_s=0.0, compute_s=0.25, batch_size=1)
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
        assert tasks[1].result() == Done("<b>", queue_s=2.0, compute_s=1.0, batch_size=4)
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


@pytest.mark.parametrize("poison", range(8))
def test_a_poison_item_fails_alone_in_a_logarithm_of_runs(poison: int) -> None:
    runs: list[list[int]] = []

    async def run(items: Sequence[int]) -> Sequence[int]:
        runs.append(list(items))
        if poison in items:
            raise ValueError(f"poison {poison}")
        return [item * 10 for item in items]

    async def main() -> None:
        bench = Bench(run, max_batch=8)
        tasks = await bench.send(*range(8))
        for item, task in enumerate(tasks):
            if item == poison:
                assert isinstance(outcome(task), ValueError)
                assert str(outcome(task)) == f"poison {poison}"
            else:
                assert outcome(task) == item * 10
        assert len(runs) == 1 + 2 * 3
        assert [size for size, _ in bench.notes.failures] == [8, 4, 2, 1]
        assert sum(size for size, _, _ in bench.notes.batches) == 7
        assert bench.batcher.cap == 8
        bench.check_idle()

    run_clean(main())


def test_items_that_ended_meanwhile_are_left_out_of_the_retry() -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.send("a", "b", "c") + await bench.send()
        tasks[1].cancel()
        await bench.device.finish(RuntimeError("once"))
        await bench.device.finish()
        await bench.device.finish()
        assert bench.device.batches == [["a", "b", "c"], ["a"], ["c"]]
        assert [outcome(tasks[0]), outcome(tasks[2])] == ["<a>", "<c>"]
        bench.check_idle()

    run_clean(main())


def test_the_waits_of_a_retried_item_include_the_failed_runs() -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.send("a", "b")
        await bench.clock.advance(3.0)
        await bench.device.finish(RuntimeError("once"))
        await bench.clock.advance(1.0)
        await bench.device.finish()
        await bench.device.finish()
        assert tasks[0].result() == Done("<a>", queue_s=3.0, compute_s=1.0, batch_size=1)
        assert tasks[1].result() == Done("<b>", queue_s=4.0, compute_s=0.0, batch_size=1)

    run_clean(main())


def test_out_of_memory_halves_the_cap_which_recovers_ever_more_slowly() -> None:
    fits = 4
    runs: list[int] = []

    async def run(items: Sequence[int]) -> Sequence[int]:
        runs.append(len(items))
        if len(items) > fits:
            raise MemoryError
        return items

    async def main() -> None:
        nonlocal fits
        bench = Bench(run, max_batch=16, max_queue=100)
        tasks = await bench.send(*range(16))
        assert [outcome(task) for task in tasks] == list(range(16))  # nobody notices
        assert runs == [16, 8, 4, 4, 8, 4, 4]
        assert bench.batcher.cap == 4

        async def batches_until(cap: int) -> int:
            count = 0
            while bench.batcher.cap != cap:
                await bench.send(*range(bench.batcher.cap))
                count += 1
                assert count < 5000
            return count

        patience = 32 * 2**3  # three out-of-memories so far
        assert await batches_until(8) == patience - 2  # the last two of the retry count
        await bench.send(*range(8))  # the probe fails, unnoticed
        assert bench.batcher.cap == 4
        fits = 16
        assert await batches_until(16) == 2 * (2 * patience) - 2
        for _ in range(2 * patience):
            await bench.send(*range(16))
        fits = 8
        await bench.send(*range(16))
        assert await batches_until(16) == 64 - 2  # a long time at the full size forgave the past

    run_clean(main())


def test_small_batches_say_nothing_of_a_cap() -> None:
    async def main() -> None:
        bench = Bench(max_batch=8)
        await bench.send(*range(8))
        await bench.device.finish(MemoryError())
        while bench.device.busy:
            await bench.device.finish()
        for _ in range(100):
            await bench.send("a", "b")
            await bench.device.finish()
        assert bench.batcher.cap == 4

    run_clean(main())


def test_out_of_memory_of_one_item_fails_it_and_what_counts_as_such_is_given() -> None:
    async def main() -> None:
        bench = Bench(is_oom=lambda error: "CUDA" in str(error))
        (task,) = await bench.send("a")
        await bench.device.finish(RuntimeError("CUDA out of memory"))
        assert str(outcome(task)) == "CUDA out of memory"
        assert bench.batcher.cap == 1
        bench.check_idle()

    run_clean(main())


def test_exceptions_among_the_results_fail_their_items_alone() -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.send(*"abcd")
        await bench.device.finish(["A", KeyError("b"), StopIteration(), "D"])
        assert [outcome(tasks[0]), outcome(tasks[3])] == ["A", "D"]
        assert isinstance(outcome(tasks[1]), KeyError)
        assert isinstance(outcome(tasks[2]), RuntimeError)
        assert len(bench.device.batches) == 1
        bench.check_idle()

    run_clean(main())


@pytest.mark.parametrize("results", [[], ["one"], ["one", "two", "three"]])
def test_a_wrong_number_of_results_is_an_error_of_the_whole_batch(results: list[str]) -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.send("a", "b")
        await bench.device.finish(results)
        for task in tasks:
            assert isinstance(outcome(task), RuntimeError)
            assert f"gave {len(results)} results" in str(outcome(task))
        assert outcome(tasks[0]) is not outcome(tasks[1])  # no traceback shared between requests
        assert bench.notes.failures == [(2, f"a run of 2 items gave {len(results)} results")]
        bench.check_idle()

    run_clean(main())


def test_a_run_that_is_cancelled_fails_its_batch_and_the_next_goes_on() -> None:
    async def main() -> None:
        bench = Bench()
        tasks = await bench.send("a") + await bench.send("b")
        bench.device.busy[0].cancel()
        await settle()
        assert isinstance(outcome(tasks[0]), NotReady)
        await bench.device.finish()
        assert outcome(tasks[1]) == "<b>"
        bench.check_idle()

    run_clean(main())


def test_fit_takes_the_sizes_that_the_device_likes() -> None:
    async def main() -> None:
        bench = Bench(max_batch=8, fit=lambda waiting: 1 << waiting.bit_length() - 1)
        await bench.send(*range(7))
        while bench.device.busy:
            await bench.device.finish()
        assert bench.device.batches == [[0, 1, 2, 3], [4, 5], [6]]
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


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"slots": 0}, {"max_queue": -1}, {"linger": -0.1}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Bench(**options)
