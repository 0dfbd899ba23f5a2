"""The supervisor process: it reports what happens to the workers, and ends what hangs.

BentoML's supervisor is circus' arbiter. Every ten seconds it looks for dead workers and replaces them without
a log line, for ever; it waits a day for one that does not end. Its watchers take hooks, but BentoML passes
none: `watch_workers` makes the class add them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import bentoml._internal.utils.circus as circus_of_bento
import circus.watcher
from circus.exc import ConflictError
from circus.process import DEAD_OR_ZOMBIE, UNEXISTING, Process
from circus.sighandler import SysHandler
from prometheus_client.mmap_dict import mmap_key

from service.host.fork import Forked
from service.host.heartbeat import (
    DEVICE,
    KILLED,
    LEAVING,
    LOOK,
    STOPPED,
    WORKER,
    Looks,
    beats,
    end_within,
    file_of,
    is_stopped,
    reason_file,
    stuck_after,
)
from service.host.standby import Standby
from service.telemetry.log import LAST
from service.telemetry.metrics import (
    DEVICE_DEATHS,
    DEVICE_STARTS,
    DIRECTORY,
    WORKER_DEATHS,
    WORKER_STARTS,
    ReservedFile,
)
from service.telemetry.oom import oom_kills

logger = logging.getLogger(__name__)

FAILED_STARTS = 3
"""After so many in a row, with no other worker ready, the server ends."""

DEADLY = ("OOM", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGSEGV")
"""What ends a worker by a fault of its own, or by the kernel where memory runs out."""

ASKED = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a worker to end; uvicorn raises the same one again after an orderly stop."""


def watch_workers(seconds: float, timeout: float, *, fork: bool = False) -> None:
    """Makes every circus watcher from now on report starts and deaths, replace dead workers at once, continue
    those that are stopped, end those that hang, and end the server where no worker can start. SIGHUP does
    nothing: a reload is an outage.

    To be called in the supervisor, before BentoML makes its watchers.

    Args:
        seconds: after which a worker that was asked to end is killed.
        timeout: seconds that a request may take.
        fork: workers are forks of this process; see `Forked`.
    """
    circus.watcher.Watcher = _Watcher
    _Watcher.fork = fork
    _Watcher.seconds = seconds
    _Watcher.killed = stuck_after(timeout) + KILLED
    SysHandler.handle_hup = lambda _: logger.info("SIGHUP: nothing is read again; restart the server")
    SysHandler.quit = lambda handler: _quit(handler.controller.arbiter, seconds)


def add_device_processes(number: int, module: str, folder: Path) -> None:
    """Makes every arbiter from now on start device processes before its workers; see `service.device`.

    To be called after `watch_workers`. They are looked after as workers are, and started again for ever.

    Args:
        number: of them, one for each device.
        module: that they run, with their number from 1.
        folder: where the module is imported from.
    """
    made: Any = circus_of_bento.Arbiter

    class WithDevices(made):
        def __init__(self, watchers: list[Any], **options: Any) -> None:
            devices = _DeviceWatcher(
                DEVICE,
                shlex.quote(sys.executable),
                args=["-m", module, "$(CIRCUS.WID)"],
                numprocesses=number,
                env=dict(watchers[-1].env),
                working_dir=str(folder),
                stop_children=True,
            )
            super().__init__([devices, *watchers], **options)

    circus_of_bento.Arbiter = WithDevices


def _quit(arbiter: Any, seconds: float) -> None:
    """Stops the arbiter, in a signal's handler. circus refuses a command while another one is under way: a
    signal that came while a worker was being replaced would be lost."""

    def stop() -> None:
        try:
            arbiter.stop()
        except ConflictError:
            arbiter.loop.call_later(0.1, stop)

    end_within(seconds + LAST)
    arbiter.loop.add_callback_from_signal(stop)


class _Watcher(circus.watcher.Watcher):
    seconds = 60.0
    killed = stuck_after(60.0) + KILLED
    fork = False
    what, beat = "worker", WORKER
    deaths, starts = WORKER_DEATHS, WORKER_STARTS

    def __init__(self, *args: Any, **options: Any) -> None:
        self._numbers: dict[int, int] = {}
        self._failed = 0
        self._begun = self._has_served = False
        self._standbys: list[Standby] = []
        self._oom_kills = oom_kills()
        hooks: dict[str, tuple[Any, bool]] = {  # True: an error in one is logged, and that is all
            "after_spawn": (self._spawned, True),
            "after_reap": (self._reaped, True),
            "before_stop": (self._stopping, True),
        }
        super().__init__(*args, hooks=hooks, **options | {"graceful_timeout": self.seconds})
        self._folder = Path(self.env[DIRECTORY])

    @property
    def _process_class(self) -> type[Process]:
        return Forked if self.fork else Process

    def _spawned(self, watcher: Any, arbiter: Any, pid: int, **_: Any) -> bool:
        if not self._begun:
            self._begun = True
            # from 0 on, so that a rate sees the first death
            count(self._folder, self.deaths, dict.fromkeys(DEADLY, 0))
            threading.Thread(target=self._watch, name="hangs", daemon=True).start()
            self._stand_by()
        count(self._folder, self.starts, {"": 1})
        self._numbers[pid] = number = self.processes[pid].wid
        logger.info("%s %d (pid %d) is started", self.what, number, pid)
        if threading.current_thread() is threading.main_thread():  # there are no signals elsewhere
            signal.signal(signal.SIGCHLD, self._child_ended)
        return True

    def _stand_by(self) -> None:
        self._standbys = [Standby(listener, self._is_missed) for listener in self.sockets.values()]
        for standby in self._standbys:
            standby.start()

    def _is_missed(self) -> bool:
        """No worker serves, though one has: what connects while the server starts waits for it."""
        return self._has_served and not beats(self._folder)

    def _watch(self) -> None:
        looks = Looks()
        stopped: Counter[int] = Counter()
        while True:
            time.sleep(LOOK)
            for pid, same in looks.look(beats(self._folder, self.beat)).items():
                if same >= (LEAVING if self.is_stopping() else self.killed) and pid in self._numbers:
                    logger.error("%s (pid %d) does not answer: it is killed", self.what, pid)
                    _send(pid, signal.SIGKILL)
            stopped = Counter({pid: stopped[pid] + 1 for pid in tuple(self._numbers) if is_stopped(pid)})
            for pid, times in stopped.items():
                if times >= STOPPED:
                    logger.error("%s (pid %d) was stopped by a signal: it is continued", self.what, pid)
                    _send(pid, signal.SIGCONT)

    def _child_ended(self, number: int, frame: FrameType | None) -> None:
        self.arbiter.loop.add_callback_from_signal(self._look)

    async def _look(self) -> None:
        """Replaces a process that had been ready at once. One that could not start waits for the arbiter's
        own look: it is not started again and again without a pause."""
        if any(watcher.is_active() and watcher.has_lost() for watcher in self.arbiter.iter_watchers()):
            with contextlib.suppress(ConflictError):  # it is busy; it looks again at its next interval
                await self.arbiter.manage_watchers()

    def manage_processes(self) -> Any:
        """Replaces what has died. circus forgets what died since its last look, and no hook hears of it."""
        for process in tuple(self.processes.values()):
            if process.status in (DEAD_OR_ZOMBIE, UNEXISTING):
                self.reap_process(process.pid)
        return super().manage_processes()

    def has_lost(self) -> bool:
        """Whether one of its processes that was ready has ended."""
        dead = (process for process in self.processes.values() if not _lives(process.pid))
        return any(self._was_ready(process.pid) for process in dead)

    def _was_ready(self, pid: int) -> bool:
        return file_of(self._folder, pid, self.beat).exists()

    def _stopping(self, **_: Any) -> bool:
        for standby in self._standbys:
            standby.stop()
        for listener in self.sockets.values():
            listener.close()  # the workers have it too: the last one refuses what still waits
        return True

    def _reaped(self, watcher: Any, process_pid: int, exit_code: int | None, **_: Any) -> None:
        number = self._numbers.pop(process_pid, 0)
        ready = self._was_ready(process_pid)
        self._has_served |= ready
        file_of(self._folder, process_pid, self.beat).unlink(missing_ok=True)
        if not exit_code or -exit_code in ASKED:
            return
        description = self._log_death(f"{self.what} {number} (pid {process_pid})", exit_code)
        if ready or self.is_stopping() or beats(self._folder):
            self._failed = 0
            return
        self._failed += 1
        if exit_code == os.EX_CONFIG or self._failed >= FAILED_STARTS:
            self._give_up(self._reason(process_pid) or description)

    def _log_death(self, who: str, status: int) -> str:
        """Logs how a process ended, and counts it where a signal did it; the line.

        Args:
            who: it was.
            status: its exit status, or the signal's number with a minus sign (as `Popen.returncode`).
        """
        kills, before = oom_kills(), self._oom_kills
        self._oom_kills = kills
        if status > 0:
            description = f"{who} ended with status {status}"
        else:
            try:
                name = signal.Signals(-status).name
            except ValueError:  # a real-time signal
                name = f"SIG{-status}"
            description = f"{who} was ended by signal {-status} ({name})"
            if name == "SIGKILL" and kills > before:  # the kernel has ended a process meanwhile
                name, description = "OOM", f"{description}: out of memory"
            count(self._folder, self.deaths, {name: 1})
        logger.error(description)
        return description

    def _reason(self, pid: int) -> str:
        with contextlib.suppress(OSError):
            return reason_file(self._folder, pid).read_text(encoding="utf-8", errors="replace")
        return ""

    def _give_up(self, reason: str) -> None:
        for watcher in self.arbiter.iter_watchers():
            for process in watcher.processes.values():
                _send(process.pid, signal.SIGKILL)
        sys.exit(f"lynceus cannot start: {reason}")


class _DeviceWatcher(_Watcher):
    """The same for device processes, which accept no connection of a client."""

    what, beat = "device process", DEVICE
    deaths, starts = DEVICE_DEATHS, DEVICE_STARTS

    def _stand_by(self) -> None:
        pass

    def _stopping(self, **_: Any) -> bool:
        return True


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _lives(pid: int) -> bool:
    """Whether a child has not ended; its exit status stays for `wait`."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def count(folder: Path, metric: tuple[str, str], values: Mapping[str, int]) -> None:
    """Adds to a counter of the supervisor's, in a file of values beside the workers'. A full disk is logged.

    Args:
        folder: of the workers' metrics (prometheus-client's multi-process mode).
        metric: its name and meaning.
        values: by `signal`; by "" where the metric has no label.
    """
    name, meaning = metric
    try:
        file = ReservedFile(str(folder / "counter_supervisor.db"))
    except OSError as error:
        logger.warning("%s is not counted: %s", name, error)
        return
    try:
        for value, number in values.items():
            labels = (["signal"], [value]) if value else ([], [])
            key = mmap_key(name, f"{name}_total", *labels, meaning)
            file.write_value(key, file.read_value(key)[0] + number, 0.0)
    finally:
        file.close()  # type: ignore[no-untyped-call]
