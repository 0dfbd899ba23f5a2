"""The timing of an answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds by stage, and the size of the batch that computed the answer."""

    decode: float = 0.0
    queue: float = 0.0
    compute: float = 0.0
    batch_size: int = 0

    def __add__(self, other: Timing) -> Timing:
        """Two parts of one answer: the times added, the larger batch."""
        return Timing(
            self.decode + other.decode,
            self.queue + other.queue,
            self.compute + other.compute,
            max(self.batch_size, other.batch_size),
        )

    @property
    def total(self) -> float:
        """Seconds."""
        return self.decode + self.queue + self.compute

    @property
    def header(self) -> str:
        """As the value of a Server-Timing header, milliseconds (https://www.w3.org/TR/server-timing)."""
        return (
            f"decode;dur={self.decode * 1000:.2f}, queue;dur={self.queue * 1000:.2f}, "
            f"compute;dur={self.compute * 1000:.2f}"
        )

    @staticmethod
    def slowest(several: Iterable[Timing]) -> Timing:
        """Of parts that ran side by side: the slowest one, with the largest batch."""
        parts = list(several)
        slowest = max(parts, key=lambda timing: timing.queue + timing.compute)
        largest = max(timing.batch_size for timing in parts)
        return Timing(slowest.decode, slowest.queue, slowest.compute, largest)
