"""What the machine can do of each task without a server: how many a second, and how long one takes alone.

Speed drifts, and other processes take their share: limits of an hour ago would not apply. So what one
request takes is measured while the run lasts, once in a while, and its median counts.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, Self

from loadtests.asks import GRPC, images_of, work_of
from loadtests.limit import Layout, Limit, layouts
from loadtests.record import Pace


@contextmanager
def every(seconds: float, look: Callable[[], None]) -> Iterator[None]:
    """Calls `look` once in so many seconds meanwhile, in a thread."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(seconds):
            look()

    thread = threading.Thread(target=work, name="every", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def accelerated() -> bool:
    """Whether there is a GPU, which needs large batches and one process."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


class Reference:
    """Warm processes that hold every task of a mix, idle between measurements; a context manager.

    Args:
        names: of tasks, as in `slo.toml`.
        seconds: for each rate.
    """

    def __init__(self, names: Sequence[str], seconds: float) -> None:
        self._names = list(names)
        self._seconds = seconds
        self._tasks = list(dict.fromkeys(name.removesuffix(GRPC) for name in names))
        self._layout: Layout = layouts()[0 if accelerated() else -1]
        self._batches = (1, 8, 32) if accelerated() else (1, 2)
        jobs = [(work, images_of(work)) for work in map(work_of, self._tasks)]
        self._limit = Limit(jobs, self._layout, self._batches)

    def __enter__(self) -> Self:
        self._limit.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._limit.__exit__(*error)

    def measure(self) -> dict[str, Pace]:
        """Each name's pace now, on all cores, with nothing else to do."""
        paces = {}
        for number, task in enumerate(self._tasks):
            rates = [self._limit.measure(size, self._seconds, number) for size in self._batches]
            paces[task] = Pace(max(rates), self._limit.alone(number))
        return {name: paces[name.removesuffix(GRPC)] for name in self._names}

    @contextmanager
    def probing(self, period: float) -> Iterator[dict[str, list[float]]]:
        """Once in so many seconds, while it is entered, one request alone: seconds of each, by name."""
        found: dict[str, list[float]] = {task: [] for task in self._tasks}
        turns = cycle(enumerate(self._tasks))

        def probe() -> None:
            number, task = next(turns)
            found[task].append(self._limit.alone(number))

        with every(period, probe):
            yield {name: found[name.removesuffix(GRPC)] for name in self._names}


def refreshed(paces: Mapping[str, Pace], probes: Mapping[str, Sequence[float]]) -> dict[str, Pace]:
    """The same rates, with what one request took while the run lasted: the median of its probes."""
    return {
        name: Pace(pace.rate, statistics.median(probes.get(name) or [pace.seconds]))
        for name, pace in paces.items()
    }
