"""The slots: no two images in one, none lost, whatever order claims, threads, clients and answers come in."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from models.pipeline import Prepared
from service.engine.process.slots import (
    SMALL,
    Claim,
    Layout,
    Region,
    Slots,
    dump,
    load,
    share,
    size_of,
)

COUNT = 3
SIDE = 24  # 1728 bytes: more than goes with a message


def image(value: int, context: Any = None) -> Prepared:
    return Prepared((np.full((SIDE, SIDE, 3), value % 256, np.uint8),), context)


def region(*layouts: Layout) -> Region:
    file = share(layouts)
    try:
        return Region(file, layouts)
    finally:
        os.close(file)


@dataclass
class Owned:
    """A claim, and what this test knows of it."""

    claim: Claim
    value: int
    filled: tuple[list[int], bytes] | None = None
    sent: bool = False


class Protocol(RuleBasedStateMachine):
    """Claims are filled by a thread, sent, answered and left in any order; a left one may be any of these."""

    def __init__(self) -> None:
        super().__init__()
        self.region = region(Layout("other", mmap.PAGESIZE, 2), Layout("mean", mmap.PAGESIZE, COUNT))
        self.slots = Slots(self.region, 1)
        self.live: dict[int, Owned] = {}
        self.sequences: set[int] = set()
        self.value = 0

    claimed = Bundle("claimed")
    filled = Bundle("filled")
    at_device = Bundle("at_device")

    @rule(target=claimed)
    def claim(self) -> Owned | None:
        claim = self.slots.claim()
        if claim is None:
            assert len(self.live) == COUNT
            return None
        assert claim.slot not in self.live
        assert claim.sequence not in self.sequences
        self.sequences.add(claim.sequence)
        self.value += 1
        owned = self.live[claim.slot] = Owned(claim, self.value)
        return owned

    @rule(target=filled, owned=consumes(claimed))
    def fill(self, owned: Owned | None) -> Owned | None:
        if owned is not None:
            owned.filled = owned.claim.fill(lambda: image(owned.value))
            assert owned.filled is not None
        return owned

    @rule(owned=consumes(claimed), fails=st.booleans())
    def leave_while_the_thread_fills(self, owned: Owned | None, fails: bool) -> None:
        if owned is None:
            return

        def prepare() -> Prepared:
            assert owned is not None
            assert not owned.claim.leave(), "the device process knows nothing of it"
            assert owned.claim.slot in self.live, "the thread still writes there"
            assert self.slots.free == COUNT - len(self.live)
            if fails:
                raise ValueError("it does not decode")
            return image(owned.value)

        if fails:
            with pytest.raises(ValueError, match="decode"):
                owned.claim.fill(prepare)
        else:
            owned.claim.fill(prepare)
        del self.live[owned.claim.slot]

    @rule(owned=consumes(claimed))
    def leave_before_the_thread_begins(self, owned: Owned | None) -> None:
        if owned is not None:
            assert not owned.claim.leave()
            del self.live[owned.claim.slot]
            assert owned.claim.fill(lambda: pytest.fail("its request has left")) is None

    @rule(owned=consumes(filled))
    def leave_before_it_is_sent(self, owned: Owned | None) -> None:
        if owned is not None:
            assert not owned.claim.leave()
            del self.live[owned.claim.slot]

    @rule(target=at_device, owned=consumes(filled))
    def send(self, owned: Owned | None) -> Owned | None:
        if owned is not None:
            owned.claim.sent()
            owned.sent = True
        return owned

    @rule(owned=at_device)
    def leave_what_the_device_has(self, owned: Owned | None) -> None:
        if owned is not None and owned.sent:
            owned.claim.leave()
            assert owned.claim.slot in self.live, "the device process may still read it"

    @rule(owned=at_device)
    def answer(self, owned: Owned | None) -> None:
        if owned is None or not owned.sent:
            return
        assert owned.filled is not None
        found = load(*owned.filled, self.region.room(1, owned.claim.slot))
        assert (found.inputs[0] == owned.value % 256).all(), "another image was written over it"
        owned.claim.end()
        owned.sent = False
        del self.live[owned.claim.slot]
        assert not owned.claim.leave()

    @invariant()
    def every_slot_is_free_or_owned(self) -> None:
        assert self.slots.free + len(self.live) == COUNT


Protocol.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestProtocol = Protocol.TestCase


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3))


@given(shapes=st.lists(SHAPES, max_size=4), swapped=st.booleans(), copy=st.booleans())
@settings(deadline=None)
def test_any_value_comes_back_as_it_was(
    shapes: list[tuple[int, int, int]], swapped: bool, copy: bool
) -> None:
    arrays = [np.random.default_rng(index).random(shape) for index, shape in enumerate(shapes)]
    value = Prepared(tuple(one.T if swapped else one for one in arrays), {"canvas": arrays, "name": "a"})
    room = memoryview(bytearray(mmap.PAGESIZE * 4))
    found = load(*dump(value, room), room, copy=copy)
    assert found.context["name"] == "a"
    for left, right in zip(
        found.inputs + tuple(found.context["canvas"]), value.inputs + tuple(arrays), strict=True
    ):
        assert (left == right).all()


def test_what_is_copied_outlives_its_slot() -> None:
    room = memoryview(bytearray(mmap.PAGESIZE))
    sizes, pickled = dump(image(7), room)
    assert sizes == [SIDE * SIDE * 3]
    assert len(pickled) < SMALL
    kept, lent = load(sizes, pickled, room, copy=True), load(sizes, pickled, room)
    room[:] = bytes(len(room))
    assert kept.inputs[0].max() == 7
    assert lent.inputs[0].max() == 0


def test_a_slot_holds_what_it_was_made_for() -> None:
    large = Prepared((np.zeros((100, 100, 3), np.uint8).transpose(1, 0, 2),), np.zeros(5000))
    room = memoryview(bytearray(size_of(large)))
    contiguous = Prepared((np.ascontiguousarray(large.inputs[0]),), large.context)
    assert dump(contiguous, room)[0] == [30000, 40000]
    assert size_of(image(0)) == mmap.PAGESIZE


@pytest.mark.parametrize(
    "read",
    [
        lambda: load([mmap.PAGESIZE], b"", memoryview(bytearray(64))),
        lambda: region(Layout("a", mmap.PAGESIZE, 1)).room(0, 1),
        lambda: region(Layout("a", mmap.PAGESIZE, 1)).room(1, 0),
    ],
)
def test_nothing_reaches_beyond_its_slot(read: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="slot"):
        read()


def test_memory_that_is_too_small_is_refused_and_its_size_is_fixed() -> None:
    file = share([Layout("a", mmap.PAGESIZE, 1)])
    try:
        with pytest.raises(ValueError, match="shared memory"):
            Region(file, [Layout("a", mmap.PAGESIZE, 2)])
        with pytest.raises(PermissionError):
            os.ftruncate(file, 0)
    finally:
        os.close(file)
