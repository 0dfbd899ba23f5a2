"""Shapes of load: how much is asked for over time, as shares of the machine's ceiling.

A closed loop turns a level into users, an open one into arrivals per second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Steps in a row.

    Attributes:
        what: in words.
        seconds: how long it takes by default.
        steps: each a share of the time, and a level: 1 is the ceiling, None the level that is asked for.
    """

    what: str
    seconds: float
    steps: tuple[tuple[float, float | None], ...]

    def timed(self, seconds: float, load: float) -> list[tuple[float, float]]:
        """Seconds and level of each step."""
        total = sum(share for share, _ in self.steps)
        return [(seconds * share / total, load if level is None else level) for share, level in self.steps]


SHAPES = {
    "steady": Shape("one level", 60, ((1, None),)),
    "ramp": Shape(
        "from a tenth of the ceiling to beyond it", 120, tuple((1, step / 10) for step in range(1, 13))
    ),
    "spike": Shape("calm, a burst over the ceiling, calm", 60, ((2, None), (1, 2.0), (3, None))),
    "soak": Shape("one level for hours", 4 * 3600, ((1, None),)),
    "overload": Shape("the ceiling, twice of it, the ceiling", 50, ((1, 1.0), (3, 2.0), (1, 1.0))),
}


def level_at(steps: list[tuple[float, float]], second: float) -> float | None:
    """The level of a moment, None when it is over."""
    for seconds, level in steps:
        if second < seconds:
            return level
        second -= seconds
    return None


def calm(steps: list[tuple[float, float]], load: float, settle: float) -> Iterator[tuple[float, float]]:
    """From when to when no more than `load` is asked for, and was not for `settle` seconds."""
    began, free = 0.0, 0.0
    for seconds, level in steps:
        ended = began + seconds
        if level > load * 1.001:
            free = ended + settle
        elif ended > max(began, free):
            yield max(began, free), ended
        began = ended
