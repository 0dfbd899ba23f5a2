"""The log's writer: lines go into a bounded queue, and a thread writes them.

A pipe whose reader stops reading blocks who writes to it. Here that is the thread: lines beyond the queue's
room are dropped and counted, and no request waits.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

WAITING: Final = 4096
"""Lines that may wait."""

GATHER: Final = 0.01
"""Seconds that a line may wait for more, which are written together: to wake the thread for each would
take the interpreter's lock from the event loop as often."""

TOGETHER: Final = select.PIPE_BUF
"""Bytes that are written at once: what a pipe keeps together, so that the lines of workers do not mix."""

LAST: Final = 1.0
"""Longest in seconds that the end of the process waits for what reads the log."""


class LogWriter(io.TextIOBase):
    """A stream of text that never blocks and never fails; `logging` and the access log may share it.

    Args:
        file: descriptor that a thread writes to.
        dropped: called for each line that is dropped.
        waiting: lines that may wait.
    """

    def __init__(
        self, file: int, dropped: Callable[[], object] = lambda: None, waiting: int = WAITING
    ) -> None:
        super().__init__()
        self._file, self._waiting = file, waiting
        self.dropped = dropped
        # a signal handler may log: it takes no lock
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        threading.Thread(target=self._write_on, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Takes whole lines."""
        if self._lines.qsize() < self._waiting:
            self._lines.put(text)
        else:
            self.dropped()
        return len(text)

    def fileno(self) -> int:
        return self._file

    def drain(self, seconds: float) -> None:
        """Waits until all that was taken before is written, but not longer."""
        reached = threading.Event()
        self._lines.put(reached)
        reached.wait(seconds)

    def _write_on(self) -> None:
        left: str | threading.Event = ""
        while True:
            first = left or self._lines.get()
            if isinstance(first, threading.Event):
                first.set()
                left = ""
                continue
            if not left:
                time.sleep(GATHER)
            data, left = _encoded(first), ""
            with contextlib.suppress(queue.Empty):
                while not left:
                    taken = self._lines.get_nowait()
                    if isinstance(taken, threading.Event) or len(data) + len(_encoded(taken)) > TOGETHER:
                        left = taken
                    else:
                        data += _encoded(taken)
            with contextlib.suppress(OSError):  # a full disk, a closed pipe
                while data:
                    data = data[os.write(self._file, data) :]


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def write_in_threads(dropped: Callable[[], object] = lambda: None) -> None:
    """Puts a `LogWriter` in the place of both standard streams, also below `logging`'s handlers."""
    writers = {stream: LogWriter(stream.fileno(), dropped) for stream in (sys.stdout, sys.stderr)}
    loggers = (logging.getLogger(name) for name in logging.root.manager.loggerDict)
    for logger in (logging.root, *loggers):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in writers:
                handler.setStream(writers[handler.stream])
    sys.stdout, sys.stderr = writers.values()
    for writer in writers.values():
        atexit.register(writer.drain, LAST)


def written() -> None:
    """Waits until what was logged is written, but no longer than `LAST`: for a process that ends at once."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LogWriter):
            stream.drain(LAST)
