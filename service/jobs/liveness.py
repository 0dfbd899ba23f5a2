"""Which worker processes are alive, by file locks: the kernel releases a process's locks however it ends.

So there are no heartbeats, a reused process id is not mistaken for the old process, and workers in containers
on one machine may share the folder. (flock(2); it does not work on NFS, nor does SQLite's write-ahead log.)
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable
from pathlib import Path


class WorkerRegistry:
    """One process's registration among those that share a folder.

    Args:
        folder: for the locks; made by `enter`.

    Attributes:
        name: this process's, never used again.
    """

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex
        self._folder = folder
        self._lock: int | None = None

    def enter(self, first: Callable[[], None]) -> None:
        """Registers this process as alive.

        Args:
            first: called before, while no other process can enter, if none is alive: the start of a server.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as mutex:
            fcntl.flock(mutex, fcntl.LOCK_EX)
            if not any(self.alive(path.stem) for path in self._folder.glob("*.worker")):
                first()
            fresh = self._folder / f"{self.name}.new"
            lock = os.open(fresh, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                fresh.rename(self._path(self.name))  # under its name it is locked from the first moment
            except OSError:
                os.close(lock)
                raise
            self._lock = lock

    def alive(self, name: str) -> bool:
        """Whether the process of that name has entered and neither left nor died."""
        try:
            with self._path(name).open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                self._path(name).unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        return False

    def leave(self) -> None:
        """Removes the registration."""
        if self._lock is not None:
            self._path(self.name).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.worker"
