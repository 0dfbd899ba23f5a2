"""Reports the deaths of workers from the supervisor process: a line in its log, and a metric.

BentoML's supervisor is circus' arbiter. Every ten seconds it looks for dead workers and replaces them without
a log line. Its watchers take hooks, but BentoML passes none: `watch_workers` makes the class add them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import circus.watcher
from circus.exc import ConflictError
from prometheus_client.mmap_dict import mmap_key

from service.telemetry.metrics import DIRECTORY, WORKER_DEATHS, ReservedFile

logger = logging.getLogger(__name__)

YOUNG = 10.0
"""Seconds. A worker that dies within these after its start is replaced at the arbiter's next look: one that
cannot start is not started again and again without a pause."""


DEADLY = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGSEGV")
"""Signals that end a worker by a fault of its own, or by the kernel where memory runs out."""

ASKED = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a worker to end; uvicorn raises the same one again after an orderly stop."""


def watch_workers() -> None:
    """Makes every circus watcher from now on report deaths and replace dead workers at once.

    To be called in the supervisor, before BentoML makes its watchers.
    """
    circus.watcher.Watcher = _Watcher


class _Watcher(circus.watcher.Watcher):
    def __init__(self, *args: Any, **options: Any) -> None:
        self._numbers: dict[int, int] = {}
        hooks: dict[str, tuple[Any, bool]] = {  # True: an error in one is logged, and that is all
            "after_spawn": (self._spawned, True),
            "after_reap": (self._reaped, True),
        }
        super().__init__(*args, hooks=hooks, **options)

    def _spawned(self, watcher: Any, arbiter: Any, pid: int, **_: Any) -> bool:
        if not self._numbers:  # from 0 on, so that a rate sees the first death
            count_deaths(self.env.get(DIRECTORY), dict.fromkeys(DEADLY, 0))
        self._numbers[pid] = self.processes[pid].wid
        if threading.current_thread() is threading.main_thread():  # there are no signals elsewhere
            signal.signal(signal.SIGCHLD, self._child_ended)
        return True

    def _child_ended(self, number: int, frame: FrameType | None) -> None:
        self.arbiter.loop.add_callback_from_signal(self._look)

    async def _look(self) -> None:
        dead = (process for process in self.processes.values() if not _lives(process.pid))
        if self.is_active() and any(process.age() > YOUNG for process in dead):
            with contextlib.suppress(ConflictError):  # it is busy; it looks again at its next interval
                await self.arbiter.manage_watchers()

    def _reaped(self, watcher: Any, process_pid: int, exit_code: int | None, **_: Any) -> None:
        number = self._numbers.pop(process_pid, 0)
        if exit_code and -exit_code not in ASKED:
            tell_of_death(number, process_pid, exit_code, self.env.get(DIRECTORY))


def _lives(pid: int) -> bool:
    """Whether a child has not ended; its exit status stays for `wait`."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def tell_of_death(number: int, pid: int, status: int, metrics: str | None) -> None:
    """Logs how a worker ended, and counts it where a signal did it.

    Args:
        number, pid: the worker's.
        status: its exit status, or the signal's number with a minus sign (as `Popen.returncode`).
        metrics: the folder of the workers' metrics.
    """
    if status > 0:
        logger.error("worker %d (pid %d) ended with status %d", number, pid, status)
        return
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"SIG{-status}"
    logger.error("worker %d (pid %d) was ended by signal %d (%s)", number, pid, -status, name)
    count_deaths(metrics, {name: 1})


def count_deaths(metrics: str | None, deaths: Mapping[str, int]) -> None:
    """Adds deaths to those counted, in a file of values beside the workers' own. A full disk is logged.

    Args:
        metrics: the folder of the workers' metrics (prometheus-client's multi-process mode), if there is one.
        deaths: by their signals' names.
    """
    if metrics is None:
        return
    metric, meaning = WORKER_DEATHS
    try:
        file = ReservedFile(str(Path(metrics) / "counter_supervisor.db"))
    except OSError as error:
        logger.warning("the deaths of workers are not counted: %s", error)
        return
    try:
        for name, number in deaths.items():
            key = mmap_key(metric, f"{metric}_total", ["signal"], [name], meaning)
            file.write_value(key, file.read_value(key)[0] + number, 0.0)
    finally:
        file.close()  # type: ignore[no-untyped-call]
