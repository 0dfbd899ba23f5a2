"""Whatever happens, and in whatever order, the batcher keeps its promises."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.engine.batcher import Batcher, BatchResult, Observer, Reason
from service.errors import DeadlineExceeded, Overloaded
from tests.service.engine.clock import FakeClock, run_clean, settle


@dataclass(eq=False)
class Item:
    """What a client submits, and what is known of its fate."""

    number: int
    key: int
    nature: str  # good | poison (its run raises) | bad (its result is an exception)
    deadline: float | None
    task: asyncio.Task[BatchResult[int]] | None = None


class PoisonError(Exception):
    """Raised by a run because of one item."""


class BadError(Exception):
    """Stands in an item's place among the results."""


@dataclass
class World(Observer):
    """The device, which checks each batch as it comes, and the observer, which counts."""

    max_batch: int
    slots: int
    clock: FakeClock
    gates: list[asyncio.Future[bool]] = field(default_factory=list)
    first_run: dict[Item, int] = field(default_factory=dict)  # to the number of the loop's turn
    wrongs: list[str] = field(default_factory=list)
    turns: int = 0
    drops: Counter[Reason] = field(default_factory=Counter)
    answered: int = 0
    depth: int = 0
    inflight: int = 0

    async def run(self, items: Sequence[Item]) -> Sequence[int | Exception]:
        self.check(items)
        for item in items:
            self.first_run.setdefault(item, self.turns)
        loop = asyncio.get_running_loop()
        loop.call_soon(self.next_turn)  # after the slots whose turn this is too
        gate: asyncio.Future[bool] = loop.create_future()
        self.gates.append(gate)
        try:
            out_of_memory = await gate
        finally:
            self.gates.remove(gate)
        if out_of_memory:
            raise MemoryError
        if any(item.nature == "poison" for item in items):
            raise PoisonError([item.number for item in items])
        return [BadError(item.number) if item.nature == "bad" else item.number for item in items]

    def next_turn(self) -> None:
        self.turns += 1

    def check(self, items: Sequence[Item]) -> None:
        """Notes what is wrong with a batch; raising would only look like a failed run."""
        now = self.clock.now()
        wrong = {
            "size": not 1 <= len(items) <= self.max_batch,
            "keys": len({item.key for item in items}) > 1,
            "order": [item.number for item in items] != sorted(item.number for item in items),
            "ended": any(item.task is None or item.task.done() for item in items),
            "expired": any(item.deadline is not None and item.deadline <= now for item in items),
            "slots": len(self.gates) >= self.slots,
        }
        self.wrongs += [name for name, is_wrong in wrong.items() if is_wrong]

    def on_batch(self, size: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        assert size == len(queue_seconds)
        assert min(queue_seconds) >= 0 <= compute_seconds
        self.answered += size

    def on_drop(self, reason: Reason) -> None:
        self.drops[reason] += 1

    def on_depth(self, items: int) -> None:
        self.depth = items

    def on_inflight(self, batches: int) -> None:
        self.inflight = batches
        assert batches <= self.slots


TIMES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])
NATURES = st.sampled_from(["good"] * 6 + ["poison", "bad"])
EVENTS = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 2), NATURES, st.none() | TIMES, st.booleans()),
    st.tuples(st.just("submit"), st.integers(0, 2), NATURES, TIMES, st.just(True)),
    st.tuples(st.just("submit"), st.integers(0, 2), NATURES, st.none(), st.just(False)),
    st.tuples(st.just("finish"), st.integers(0, 2), st.sampled_from([False] * 5 + [True])),
    st.tuples(st.just("cancel"), st.integers(0, 40)),
    st.tuples(st.just("advance"), TIMES),
    st.tuples(st.just("held up"), TIMES),
    st.tuples(st.just("turn")),
    st.tuples(st.just("settle")),
)


@example(  # a slot that is free again overtakes within the turn one that another has been given
    events=[
        ("submit", 0, "good", 0.5, True),
        ("submit", 2, "good", None, False),
        ("submit", 2, "good", None, False),
        ("finish", 0, False),
    ],
    max_batch=1,
    max_queue=1,
    slots=2,
    linger=0.0,
)
@settings(max_examples=400, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=60),
    max_batch=st.integers(1, 5),
    max_queue=st.integers(0, 8),
    slots=st.integers(1, 3),
    linger=st.sampled_from([0.0, 0.0, 1.0]),
)
def test_every_submission_ends_exactly_once(
    events: list[tuple[Any, ...]], max_batch: int, max_queue: int, slots: int, linger: float
) -> None:
    async def main() -> None:
        clock = FakeClock()
        world = World(max_batch, slots, clock)
        batcher: Batcher[Item, int] = Batcher(
            world.run,
            max_batch=max_batch,
            max_queue=max_queue,
            slots=slots,
            linger=linger,
            clock=clock,
            observer=world,
        )
        items: list[Item] = []
        left: set[Item] = set()

        for event, *arguments in events:
            if event == "submit":
                key, nature, timeout, settles = arguments
                deadline = None if timeout is None else clock.now() + timeout
                item = Item(len(items), key, nature, deadline)
                item.task = asyncio.create_task(batcher.submit(item, key=key, deadline=deadline))
                items.append(item)
                if settles:
                    await settle()
            elif event == "finish" and world.gates:
                gate = world.gates[arguments[0] % len(world.gates)]
                if not gate.done():
                    gate.set_result(arguments[1])
            elif event == "cancel" and items:
                item = items[arguments[0] % len(items)]
                assert item.task is not None
                if item.task.cancel():
                    left.add(item)
            elif event == "advance":
                await clock.advance(arguments[0])
            elif event == "held up":
                clock.skip(arguments[0])
            elif event == "turn":
                await asyncio.sleep(0)
            elif event == "settle":
                await settle()
                # Work-conserving: nothing waits beside a free slot, unless it lingers for company.
                assert linger or not batcher.queue_depth or batcher.inflight == slots
                assert batcher.queue_depth <= max_queue + max_batch * slots
            assert batcher.inflight <= slots

        drained = asyncio.create_task(batcher.drain(grace=1e9))
        await settle()
        while world.gates:
            for gate in world.gates:
                if not gate.done():
                    gate.set_result(False)
            await settle()
        assert await drained
        assert not world.wrongs

        fates: Counter[str] = Counter()
        for item in items:
            assert item.task is not None
            assert item.task.done()
            fates[check_fate(item, item in left)] += 1
        assert (batcher.queue_depth, world.depth, batcher.inflight, world.inflight) == (0, 0, 0, 0)
        assert world.drops["full"] == fates["refused"]
        assert world.drops["expired"] >= fates["expired"]  # more if the client left in the very turn
        assert sum(fates.values()) == len(items)
        if not (fates["cancelled"] or fates["expired"]):
            assert world.answered == fates["answered"] + fates["bad"]
        # Within its key an item comes to the device in no earlier turn than those before it.
        for key in range(3):
            runs = [world.first_run[item] for item in items if item.key == key and item in world.first_run]
            assert runs == sorted(runs)
        assert clock.pending <= 1  # the lingering timer at most

    run_clean(main())


def check_fate(item: Item, left: bool) -> str:
    """How an item ended, which must fit what it was."""
    assert item.task is not None
    if item.task.cancelled():
        assert left
        return "cancelled"
    error = item.task.exception()
    if error is None:
        assert item.nature == "good"
        done = item.task.result()
        assert done.result == item.number
        assert done.queue_s >= 0 <= done.compute_s
        return "answered"
    if isinstance(error, PoisonError):
        assert item.nature == "poison"
        assert error.args == ([item.number],), "it failed with its own run's exception"
        return "poison"
    if isinstance(error, BadError):
        assert (item.nature, error.args) == ("bad", (item.number,))
        return "bad"
    if isinstance(error, DeadlineExceeded):
        assert item.deadline is not None
        return "expired"
    if isinstance(error, Overloaded):
        assert error.retry_after is not None
        assert 0.05 <= error.retry_after <= 60
        return "refused"
    assert isinstance(error, MemoryError), error  # an out-of-memory run of this item alone
    return "out of memory"
