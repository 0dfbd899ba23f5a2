"""The queue of the batcher: items in lanes by key, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.engine.clock import Handle

T = TypeVar("T")
D = TypeVar("D")


@dataclass(slots=True, eq=False)
class Entry(Generic[T, D]):
    """One item and the future of its answer; `arrived` and `deadline` in the clock's seconds.

    `timer` ends it at its deadline, or when it has waited for too long.
    """

    number: int
    item: T
    key: Hashable
    arrived: float
    deadline: float | None
    future: asyncio.Future[D]
    timer: Handle | None = None

    def answer(self, answer: D) -> None:
        """Sets the result, unless the future is done already."""
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Sets the exception, unless the future is done already."""
        if not self.future.done():
            if isinstance(error, StopIteration):  # a future refuses it
                error = RuntimeError(repr(error))
            self.future.set_exception(error)


# Number -> entry: ordered like a deque, yet a cancelled entry is removed in O(1).
Lane = OrderedDict[int, Entry[T, D]]


def head(lane: Lane[T, D]) -> Entry[T, D]:
    """The entry of a lane that came first."""
    return next(iter(lane.values()))


class KeyedQueue(Generic[T, D]):
    """Lanes by key. A lane exists while an item waits in it.

    Attributes:
        depth: how many wait, in all lanes.
    """

    def __init__(self) -> None:
        self._lanes: dict[Hashable, Lane[T, D]] = {}
        self.depth = 0

    def __iter__(self) -> Iterator[Entry[T, D]]:
        for lane in self._lanes.values():
            yield from lane.values()

    def __contains__(self, entry: Entry[T, D]) -> bool:
        return entry.number in self._lanes.get(entry.key, ())

    def add(self, entry: Entry[T, D]) -> int:
        """Adds an entry and returns the length of its lane. Entries come with ascending numbers."""
        lane = self._lanes.get(entry.key)
        if lane is None:
            lane = self._lanes[entry.key] = OrderedDict()
        lane[entry.number] = entry
        self.depth += 1
        return len(lane)

    def remove(self, entry: Entry[T, D]) -> bool:
        """Removes an entry; False if it was not there."""
        lane = self._lanes.get(entry.key)
        if lane is None or lane.pop(entry.number, None) is None:
            return False
        self.depth -= 1
        if not lane:
            del self._lanes[entry.key]
        return True

    def oldest(self, full: int, arrived: float) -> Lane[T, D] | None:
        """The lane whose head came first, of those `full` entries long or whose head came by `arrived`."""
        lanes = self._lanes.values()
        ripe = [lane for lane in lanes if len(lane) >= full or head(lane).arrived <= arrived]
        return min(ripe, key=lambda lane: head(lane).number, default=None)

    def first_arrival(self) -> float:
        """When the first of all entries came; infinity in an empty queue."""
        return min((head(lane).arrived for lane in self._lanes.values()), default=float("inf"))
