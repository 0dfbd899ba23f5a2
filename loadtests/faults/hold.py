"""Holds one thread of another process, as a driver that hangs would (ptrace(2))."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

SEIZE, INTERRUPT, DETACH, ALL_THREADS = 0x4206, 0x4207, 17, 0x40000000


def busiest_thread(process: psutil.Process, seconds: float = 1.0) -> int:
    """The thread, other than the main one, that computes most meanwhile: a model's, under load."""
    before = {thread.id: thread.user_time for thread in process.threads()}
    time.sleep(seconds)
    spent = {thread.id: thread.user_time - before.get(thread.id, 0.0) for thread in process.threads()}
    spent.pop(process.pid, None)
    return int(max(spent, key=lambda thread: spent[thread]))


@contextlib.contextmanager
def held(thread: int) -> Iterator[None]:
    """Holds a thread meanwhile, unless its process ends before.

    Raises:
        PermissionError: this machine does not allow it.
    """
    done, failed, begun = threading.Event(), [False], threading.Event()

    def tracer() -> None:  # all requests must come from one thread
        libc = ctypes.CDLL(None, use_errno=True)
        failed[0] = bool(libc.ptrace(SEIZE, thread, 0, 0)) or bool(libc.ptrace(INTERRUPT, thread, 0, 0))
        if not failed[0]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(thread, ALL_THREADS)
        begun.set()
        done.wait()
        libc.ptrace(DETACH, thread, 0, 0)

    holding = threading.Thread(target=tracer, daemon=True)
    holding.start()
    begun.wait()
    try:
        if failed[0]:
            raise PermissionError("ptrace is not allowed here")
        yield
    finally:
        done.set()
        holding.join(5.0)
