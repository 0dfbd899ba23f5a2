"""The batcher when a run fails: who is answered, who is not, and what it learns of the memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from service.engine.batcher import BatchResult
from service.errors import NotReady
from tests.service.engine.bench import Bench, outcome
from tests.service.engine.clock import run_clean, settle


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
        assert [len(items) for items in runs if poison in items] == [8, 4, 2, 1]
        assert sum(size for size, _, _ in bench.notes.batches) == 7
        assert bench.batcher._cap.size == 8
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
        assert tasks[0].result() == BatchResult("<a>", queue_s=3.0, compute_s=1.0, batch_size=1)
        assert tasks[1].result() == BatchResult("<b>", queue_s=4.0, compute_s=0.0, batch_size=1)

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
        assert [outcome(task) for task in tasks] == list(range(16))  # every one of themices
        assert runs == [16, 8, 4, 4, 8, 4, 4]
        assert bench.batcher._cap.size == 4

        async def batches_until(cap: int) -> int:
            count = 0
            while bench.batcher._cap.size != cap:
                await bench.send(*range(bench.batcher._cap.size))
                count += 1
                assert count < 5000
            return count

        retry_after = 32 * 2**3  # three out-of-memories so far
        assert await batches_until(8) == retry_after - 2  # the last two of the retry count
        await bench.send(*range(8))  # the probe fails, unnoticed
        assert bench.batcher._cap.size == 4
        fits = 16
        assert await batches_until(16) == 2 * (2 * retry_after) - 2
        for _ in range(2 * retry_after):
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
        assert bench.batcher._cap.size == 4

    run_clean(main())


def test_out_of_memory_of_one_item_fails_it_and_what_counts_as_such_is_given() -> None:
    async def main() -> None:
        bench = Bench(is_oom=lambda error: "CUDA" in str(error))
        (task,) = await bench.send("a")
        await bench.device.finish(RuntimeError("CUDA out of memory"))
        assert str(outcome(task)) == "CUDA out of memory"
        assert bench.batcher._cap.size == 1
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
            assert f"a run of 2 items gave {len(results)} results" in str(outcome(task))
        assert outcome(tasks[0]) is not outcome(tasks[1])  # no traceback shared between requests
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
