"""The progress of a training: by epochs, or by time, on a machine that may be busy or stop it for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Progress:
    """From 0 to 1 over a training.

    By time, a step counts for its part of what is left, so that the end comes on time although steps vary. A
    step far longer than usual was a process stopped and continued: it counts as a usual one, except against
    the deadline.

    Args:
        steps: how many there will be; only counts where no time is set.
        minutes: how long it may take, or None.
        deadline: the clock's reading by which it is over whatever the other limits are, or None.
        clock: seconds; Unix time by default.

    Attributes:
        value: 0 to 1.
        active: seconds spent in steps.
    """

    def __init__(
        self,
        steps: int,
        minutes: float | None = None,
        deadline: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.value = 0.0
        self.active = 0.0
        self._steps, self._clock = steps, clock
        self._budget = math.inf if minutes is None else 60 * minutes
        self._deadline = math.inf if deadline is None else deadline
        self._usual: float | None = None
        self._last = clock()

    def step(self) -> None:
        """Counts one step."""
        now = self._clock()
        taken, self._last = now - self._last, now
        if self._usual is not None and taken > 10 * self._usual:
            taken = self._usual
        self._usual = taken if self._usual is None else 0.95 * self._usual + 0.05 * taken
        self.active += taken
        left = min(self._budget - self.active, self._deadline - now)
        # by time, at least as fast as the time left asks for; by steps where no time is set
        part = 1 / self._steps if math.isinf(self._budget) else 0.0
        if math.isfinite(left):
            part = max(part, (1 - self.value) * taken / max(left + taken, 1e-9))
        self.value += part
        if self.value > 1 - 1e-9 or left <= 0:
            self.value = 1.0

    def skip(self) -> None:
        """Leaves out the time since the last step, a measurement say, from what the next one takes."""
        self._last = self._clock()
