"""How long a job takes yet."""

from __future__ import annotations

from typing import Any

from models.style.result import steps_by_level


class EtaEstimator:
    """Estimates the remaining time of a job.

    Early steps work on smaller images (`models.style.optimise`), so steps are weighed by their pixels.

    Args:
        options: the job's; of them `levels`.
        steps: how many there will be.
    """

    def __init__(self, options: Any, steps: int) -> None:
        counts = steps_by_level(steps, options.get("levels", 1))
        self._weights = [4.0**level for level, count in enumerate(counts) for _ in range(count)]
        self._first: tuple[int, float] | None = None

    def after(self, step: int, now: float) -> float | None:
        """Seconds that are left after so many steps; None until two steps have been seen."""
        if self._first is None:
            self._first = step, now
            return None
        first, began = self._first
        done = sum(self._weights[first:step])
        return (now - began) / done * sum(self._weights[step:]) if done else None
