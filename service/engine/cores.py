"""Whether a batch has the machine to itself: images under way are counted over all workers, in one file."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np


class Cores:
    """How many images each worker has under way, from their admission until their result.

    A batch of all images that are under way may use every core. Two that begin at the same moment may
    both take them; they then share the cores as the kernel sees fit. `enter` and `leave` are called from one
    thread of a worker, its event loop's.

    Args:
        file: of the counts, made where it is missing; None: this worker is the only one.
        worker: this one's number, from 1; a worker that takes the place of one that died has its number.
        total: cores that all workers have together.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, file: Path | None, worker: int, total: int) -> None:
        self.total = total
        self._own = 0 if file is None else worker - 1
        self._counts = np.zeros(1, np.uint32)
        if file is None:
            return
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)  # the same size for all
            self._counts = np.frombuffer(mmap.mmap(descriptor, mmap.PAGESIZE), np.uint32)
        finally:
            os.close(descriptor)
        self._counts[self._own] = 0  # of a worker that was killed

    def enter(self) -> None:
        """An image has been admitted."""
        self._counts[self._own] += 1

    def leave(self) -> None:
        """It has its result, or none."""
        self._counts[self._own] -= 1

    def alone(self, images: int) -> bool:
        """Whether no more than so many images are under way, in all workers."""
        return int(self._counts.sum()) <= images
