"""Whether the machine is idle: batches under way are counted over all workers, in a file that they share."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path


class Cores:
    """A byte for each worker: how many batches it computes now.

    A batch that begins while nothing else computes may use every core. Two that begin at the same moment may
    both take them; they then share the cores as the kernel sees fit.

    Args:
        file: of the counts, made where it is missing; None: this worker is the only one.
        worker: this one's number, from 1; a worker that takes the place of one that died has its number.
        total: cores that all workers have together.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, file: Path | None, worker: int, total: int) -> None:
        self.total = total
        self._own = worker - 1
        self._lock = threading.Lock()
        self._counts: mmap.mmap | bytearray = bytearray(1)
        if file is None:
            self._own = 0
            return
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)  # the same size for all
            self._counts = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)
        self._counts[self._own] = 0  # of a worker that was killed

    @contextlib.contextmanager
    def claim(self) -> Iterator[bool]:
        """Around a batch; whether nothing else computed when it began."""
        with self._lock:
            idle = not any(self._counts[:])
            self._counts[self._own] += 1
        try:
            yield idle
        finally:
            with self._lock:
                self._counts[self._own] -= 1
