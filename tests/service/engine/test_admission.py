"""Who could not be answered in time is refused at once; on a clock that the test holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from service.engine.batcher import Batcher, longest_wait
from service.engine.clock import Handle
from service.errors import DeadlineExceeded, Overloaded
from tests.service.engine.bench import Bench, outcome
from tests.service.engine.clock import FakeClock, run_clean


async def measured(seconds: float = 1.0, **options: Any) -> Bench:
    """A batcher that has found one item to take so long; idle."""
    bench = Bench(**{"max_batch": 1, "max_wait": 2.001} | options)
    for _ in range(60):
        (task,) = await bench.send("first")
        await bench.clock.advance(seconds)
        await bench.device.finish()
        assert outcome(task) == "<first>"
    return bench


def test_what_would_wait_too_long_is_refused_and_told_when_to_come_again() -> None:
    async def main() -> None:
        bench = await measured()
        await bench.send("a", "b", "c")
        bench.batcher.check(2, None)
        with pytest.raises(Overloaded) as refused:
            bench.batcher.check(3, None)
        assert refused.value.retry_after == pytest.approx(1.0, abs=0.01)
        assert bench.notes.drops == ["hopeless"]
        await bench.clock.advance(refused.value.retry_after + 0.01)
        bench.batcher.check(3, None)  # part of the first one is done
        for _ in "abc":
            await bench.device.finish()

    run_clean(main())


def test_a_deadline_that_cannot_be_met_is_refused() -> None:
    async def main() -> None:
        bench = await measured()
        now = bench.clock.now()
        await bench.send("a")
        bench.batcher.check(1, now + 2.1)  # one second to wait, one to compute
        with pytest.raises(Overloaded):
            bench.batcher.check(1, now + 1.9)
        with pytest.raises(DeadlineExceeded):  # nor with nothing before it: it is no overload
            bench.batcher.check(1, now + 0.9)
        bench.batcher.check(1, now)  # it has passed, which is no overload
        with pytest.raises(DeadlineExceeded):
            await bench.batcher.submit("b", deadline=now)
        await bench.device.finish()

    run_clean(main())


def test_an_idle_device_takes_whatever_comes() -> None:
    """A measurement that is wrong is corrected by batches alone."""

    async def main() -> None:
        bench = await measured(seconds=100.0)
        bench.batcher.check(0, bench.clock.now() + 0.1)

    run_clean(main())


def test_a_slow_model_never_idles_between_two_batches() -> None:
    async def main() -> None:
        bench = await measured(seconds=5.0)
        await bench.send("a")
        bench.batcher.check(1, None)
        most = longest_wait(bench.batcher._max_wait, bench.batcher.batch_seconds)
        assert most == pytest.approx(10.0, rel=0.01)
        await bench.device.finish()

    run_clean(main())


def test_two_models_on_the_same_cores_take_twice_as_long() -> None:
    async def main() -> None:
        sharing = [1]
        bench = await measured(sharing=lambda: sharing[0])
        await bench.send("a", "b")
        bench.batcher.check(2, None)
        sharing[0] = 2
        with pytest.raises(Overloaded):
            bench.batcher.check(2, None)
        for _ in "ab":
            await bench.device.finish()
        for _ in range(40):  # and what is measured meanwhile is no slower model
            await bench.send("a")
            await bench.clock.advance(2.0)
            await bench.device.finish()
        sharing[0] = 1
        assert bench.batcher.seconds_per_item == pytest.approx(1.0, rel=0.01)

    run_clean(main())


def test_no_item_waits_longer_even_when_the_device_hangs() -> None:
    async def main() -> None:
        bench = Bench(max_batch=1, max_wait=2.0)
        on_device, waiting, dated = (
            await bench.send("a")
            + await bench.send("b")
            + await bench.send("c", deadline=bench.clock.now() + 1.5)
        )
        await bench.clock.advance(1.5)
        assert isinstance(outcome(dated), DeadlineExceeded)
        assert not waiting.done()
        await bench.clock.advance(0.5)
        assert isinstance(outcome(waiting), Overloaded)
        assert bench.notes.drops == ["expired", "hopeless"]
        assert not on_device.done()  # it does not wait
        await bench.clock.advance(100.0)
        await bench.device.finish()
        assert outcome(on_device) == "<a>"
        assert bench.clock.pending == 0
        bench.check_idle()

    run_clean(main())


def test_what_an_item_has_waited_elsewhere_counts() -> None:
    async def main() -> None:
        bench = Bench(max_batch=1, max_wait=2.0)
        on_device, later, new = (
            await bench.send("a", waited=5.0)  # the device is free: nothing more to wait for
            + await bench.send("b", waited=1.5)
            + await bench.send("c")
        )
        await bench.clock.advance(0.5)
        assert isinstance(outcome(later), Overloaded)
        assert not new.done()
        await bench.clock.advance(1.5)
        assert isinstance(outcome(new), Overloaded)
        await bench.device.finish()
        assert outcome(on_device) == "<a>"
        bench.check_idle()

    run_clean(main())


def test_on_the_device_the_deadline_holds() -> None:
    async def main() -> None:
        bench = Bench(max_batch=1, max_wait=2.0)
        (task,) = await bench.send("a", deadline=bench.clock.now() + 5.0)
        await bench.clock.advance(4.9)
        assert not task.done()
        await bench.clock.advance(0.1)
        assert isinstance(outcome(task), DeadlineExceeded)
        await bench.device.finish()
        assert bench.clock.pending == 0

    run_clean(main())


@pytest.mark.parametrize("load", [0.6, 2.0, 5.0])
def test_an_overload_costs_no_work_and_no_item_waits_long(load: float) -> None:
    """Poisson arrivals, 60 s: what is admitted is answered, within the bound, and the device never idles."""

    async def main() -> None:
        seconds, bound = 0.05, 2.0

        async def run(items: Sequence[Any]) -> Sequence[Any]:
            done = asyncio.get_running_loop().create_future()
            bench.clock.call_later(seconds * len(items), done.set_result, None)
            await done
            return items

        bench = Bench(run, max_batch=2, max_queue=1000, max_wait=bound)
        rng = random.Random(0)
        took: list[float] = []
        told: list[float] = []
        admitted = 0

        async def ask() -> None:
            nonlocal admitted
            began = bench.clock.now()
            admitted += 1
            try:
                await bench.batcher.submit("x", deadline=began + 30.0)
            except Overloaded:
                return
            finally:
                admitted -= 1
            took.append(bench.clock.now() - began)

        tasks = []
        count = int(60 * load / seconds)
        for _ in range(count):
            try:
                bench.batcher.check(admitted, bench.clock.now() + 30.0)
            except Overloaded as error:
                told.append(error.retry_after or 0)
            else:
                tasks.append(asyncio.create_task(ask()))
            await bench.clock.advance(rng.expovariate(load / seconds))
        await bench.clock.advance(10.0)
        await asyncio.gather(*tasks)
        assert len(took) >= 0.97 * len(tasks)  # hardly anything is admitted in vain
        assert len(took) >= 0.95 * min(count, 60 / seconds)
        assert sorted(took)[int(0.99 * len(took))] <= bound + 4 * seconds
        assert all(0 < later < 1 for later in told)
        assert "expired" not in bench.notes.drops

    run_clean(main())


class Core:
    """A core that all batches under way share evenly."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._left: dict[asyncio.Future[None], float] = {}
        self._at = 0.0
        self._timer: Handle | None = None
        self.busy = 0.0

    async def compute(self, seconds: float) -> None:
        """Takes so long on a core of its own."""
        self._progress()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left[done] = seconds
        self._plan()
        await done

    def _progress(self) -> None:
        now, self._at = self._at, self._clock.now()
        passed = self._at - now
        if self._left:
            self.busy += passed
        for done in self._left:
            self._left[done] -= passed / len(self._left)

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._left:
            soonest = len(self._left) * max(0.0, min(self._left.values()))
            self._timer = self._clock.call_later(soonest, self._finish)

    def _finish(self) -> None:
        self._progress()
        for done in [done for done, left in self._left.items() if left < 1e-9]:
            del self._left[done]
            done.set_result(None)
        self._plan()


@pytest.mark.parametrize("load", [0.6, 2.0, 4.0])
def test_models_that_share_a_core_keep_its_goodput_and_the_bound(load: float) -> None:
    """A quick and a slow model, each asked for half of the core's time: 60 s of Poisson arrivals."""
    takes, bound = {"quick": 0.01, "slow": 0.06}, 2.0

    async def main() -> None:
        clock = FakeClock()
        core = Core(clock)
        batchers: dict[str, Batcher[str, str]] = {}

        async def run(items: Sequence[str]) -> Sequence[str]:
            await core.compute(sum(takes[item] for item in items))
            return items

        for name in takes:
            batchers[name] = Batcher(
                run,
                max_batch=2,
                max_queue=1000,
                max_wait=bound,
                sharing=lambda: max(1, sum(one.inflight > 0 for one in batchers.values())),
                clock=clock,
            )
        rng = random.Random(1)
        took: dict[str, list[float]] = {name: [] for name in takes}
        admitted = dict.fromkeys(takes, 0)

        async def ask(name: str) -> None:
            began = clock.now()
            admitted[name] += 1
            try:
                await batchers[name].submit(name, deadline=began + 30.0)
            except Overloaded:
                return
            finally:
                admitted[name] -= 1
            took[name].append(clock.now() - began)

        tasks = []
        rates = {name: load / 2 / seconds for name, seconds in takes.items()}
        while clock.now() < 60.0:
            await clock.advance(rng.expovariate(sum(rates.values())))
            (name,) = rng.choices(list(rates), list(rates.values()))
            try:
                batchers[name].check(admitted[name], clock.now() + 30.0)
            except Overloaded:
                continue
            tasks.append(asyncio.create_task(ask(name)))
        useful = sum(len(took[name]) * seconds for name, seconds in takes.items())
        assert useful >= 0.9 * 60.0 * min(1.0, load)
        await clock.advance(10.0)
        await asyncio.gather(*tasks)
        for name, seconds in takes.items():
            p99 = sorted(took[name])[int(0.99 * len(took[name]))]
            assert p99 <= bound + 2 * (len(takes) * 2 * seconds)  # two batches of two beside the other model

    run_clean(main())
