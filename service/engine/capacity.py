"""What the batcher measures of its device while serving: its capacity and its speed."""

from __future__ import annotations


class BatchLimit:
    """The most items that a batch may have: `max_batch`, or less after out-of-memory.

    An out-of-memory halves it; 64 batches that fill more than half of it double it again. Each further
    out-of-memory doubles that number (up to 4096), so that a permanent limit is probed ever more
    rarely; as many batches at the full size reset it.
    """

    def __init__(self, max_batch: int) -> None:
        self.size = self._full = max_batch
        self._good, self._wait = 0, 32

    def failed(self, size: int) -> None:
        self.size = max(1, min(self.size, size // 2))
        self._good, self._wait = 0, min(4096, 2 * self._wait)

    def succeeded(self, size: int) -> None:
        if self._wait == 32 or 2 * size <= self.size:
            return
        self._good += 1
        if self._good == self._wait:
            self._good = 0
            if self.size == self._full:
                self._wait = 32
            self.size = min(self._full, 2 * self.size)


class DrainRate:
    """How fast batches end while the device is busy: two moving averages and their quotient, which stands
    even where batches on two slots end at one moment.

    Time is counted per share: of two models that compute on the same cores at once each has half of them.
    """

    def __init__(self) -> None:
        self._items, self._seconds, self._last = 0.0, 0.0, 0.0

    def ended(self, items: int, began: float, now: float, sharing: int = 1) -> None:
        self._items += 0.2 * (items - self._items)
        self._seconds += 0.2 * ((now - max(began, self._last)) / sharing - self._seconds)
        self._last = now

    def seconds_for(self, items: int, sharing: int = 1) -> float:
        """How long so many items should take while so many models compute; 0 before any batch ended."""
        return items * sharing * self._seconds / self._items if self._items else 0.0

    def batch_seconds(self, sharing: int = 1) -> float:
        """How long a batch of the usual size should take; 0 before any ended."""
        return sharing * self._seconds
