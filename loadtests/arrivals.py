"""When requests of an open load are sent: on a schedule that does not wait for answers.

A closed loop sends less when the service gets slow, so its percentiles leave out the waits of requests
that were not sent ("coordinated omission", Gil Tene). Here each request has a due time, from which its
latency counts.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence


def gaps(kind: str, seed: int) -> Iterator[float]:
    """Times between requests at a rate of one: ``fixed``, or ``poisson`` as independent clients arrive.

    Raises:
        ValueError: another kind.
    """
    if kind == "fixed":
        return itertools.repeat(1.0)
    if kind == "poisson":
        source = random.Random(seed)
        return iter(lambda: source.expovariate(1.0), None)
    raise ValueError(f"arrivals are fixed or poisson, not {kind!r}")


def departures(steps: Sequence[tuple[float, float]], between: Iterable[float]) -> Iterator[float]:
    """Seconds from the start at which requests are sent.

    Args:
        steps: seconds and requests per second, one after the other.
        between: times between requests at a rate of one; a step's rate compresses them, so a gap that begins
            in one step and ends in the next is right as well.
    """
    source = iter(between)
    began, left = 0.0, next(source)
    for seconds, rate in steps:
        now = began
        while rate > 0 and now + left / rate < began + seconds:
            now += left / rate
            yield now
            left = next(source)
        left -= (began + seconds - now) * rate
        began += seconds
