"""Holds threads of another process (ptrace), as a lock, a disk or a device that hangs would.

    python -m loadtests.faults.hold THREAD...

Until it is killed, or the process has ended; then they go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

import psutil  # type: ignore[import-untyped]

from loadtests.server import ROOT

SEIZE: Final = 0x4206
INTERRUPT: Final = 0x4207
ALL: Final = 0x40000000
"""`__WALL`: threads as well as processes."""


def main() -> None:
    """Holds them."""
    threads = [int(argument) for argument in sys.argv[1:]]
    for thread in threads:
        _trace(SEIZE, thread)
        _trace(INTERRUPT, thread)
        os.waitpid(thread, ALL)
    print("held", flush=True)
    left = set(threads)
    while left:
        time.sleep(0.05)
        for thread in tuple(left):
            with contextlib.suppress(ChildProcessError):
                found, status = os.waitpid(thread, ALL | os.WNOHANG)
                if not found or os.WIFSTOPPED(status):
                    continue
            left.discard(thread)


def _trace(request: int, thread: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.restype, call.argtypes = (
        ctypes.c_long,
        [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p],
    )
    if call(request, thread, None, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def held(threads: Sequence[int]) -> Iterator[None]:
    """They hang meanwhile.

    Raises:
        PermissionError: this user may not hold them.
    """
    command = [sys.executable, "-m", "loadtests.faults.hold", *map(str, threads)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        try:
            if holder.stdout is None or holder.stdout.readline() != b"held\n":
                raise PermissionError("threads cannot be held: it takes CAP_SYS_PTRACE")
            yield
        finally:
            holder.kill()  # the kernel lets them go


def busiest(process: psutil.Process) -> int:
    """The thread besides the first that computes most: under load of one model, that model's."""
    before: dict[int, float] = {thread.id: thread.user_time for thread in process.threads()}
    time.sleep(1.0)
    spent = {one.id: one.user_time - before.get(one.id, 0.0) for one in process.threads()}
    spent.pop(process.pid)
    return int(max(spent, key=lambda thread: spent[thread]))


if __name__ == "__main__":
    main()
