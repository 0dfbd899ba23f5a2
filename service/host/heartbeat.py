"""Whether the workers' event loops turn: each beats into a file that the others and the supervisor read.

A worker that hangs answers nothing, its probes neither; but beside other workers that is not seen, since the
probes reach those. So a thread of each worker ends it where its own loop does not turn (that leaves a trace),
the supervisor continues one that a signal has stopped and ends one that hangs as a whole, and any worker's
`/livez` fails for a peer that still hangs.

A worker that has not beaten for as long as a request may take can answer none of those it has in time: that
long it is waited for, within bounds.

What hangs is found by looks in a row at which nothing has changed, not by the age of a beat: where the whole
machine or container was stopped for a while, no look was taken meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import mmap
import os
import resource
import signal
import struct
import threading
import time
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Final

from service.telemetry.log import LAST, written
from service.telemetry.metrics import DIRECTORY, Metrics

logger = logging.getLogger(__name__)

BEAT: Final = 0.5
"""Seconds between two beats."""

LOOK: Final = 1.0
"""Seconds between two looks."""

STOPPED: Final = 2
"""Looks at which a worker was stopped (SIGSTOP) until the supervisor continues it."""

STUCK: Final = (6, 20)
"""Looks without a beat after which a worker ends itself: at least, at most. The least is longer than a loop
waits for a core on a machine that is overloaded; the most is less than requests may take by default."""

KILLED: Final = 2
"""Looks more after which the supervisor ends a worker."""

LEAVING: Final = 5
"""The same while the server stops: what connects to such a worker would only wait for its end."""

NOT_ALIVE: Final = 40
"""Looks without a beat after which its peers are not alive either."""

GIVEN_UP: Final = 30
"""Looks in a row at which a worker was not alive, until it ends itself: by then its container is replaced."""

WORKER: Final = "beat"
DEVICE: Final = "device"
"""Of which process a beat is: what the names of its files begin with."""

_BEAT = struct.Struct("d")


def stuck_after(timeout: float) -> int:
    """Looks without a beat after which a worker ends itself, where a request may take `timeout` seconds."""
    least, most = STUCK
    return max(least, min(most, ceil(timeout / LOOK)))


class Heartbeat:
    """The beat of this process's event loop; how late it comes is the loop's lag.

    Args:
        folder: of the workers' metrics, where the file is made.
        metrics: take the lag.
        what: this process is, `WORKER` or `DEVICE`.
    """

    def __init__(self, folder: Path, metrics: Metrics, what: str = WORKER) -> None:
        self._path = file_of(folder, os.getpid(), what)
        self._lag = metrics.loop_lag
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Beats from now on, in the running loop.

        Raises:
            OSError: the file cannot be made.
        """
        self._loop = asyncio.get_running_loop()
        with self._path.open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, mmap.PAGESIZE)  # a mapped page must find its room (SIGBUS)
            self._mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._due = self._loop.time()
        self._beat()

    def stop(self) -> None:
        """Ends the heartbeats; none is expected from now on."""
        if self._timer is not None:
            self._timer.cancel()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        self._lag.observe(max(0.0, self._loop.time() - self._due))
        _BEAT.pack_into(self._mapped, 0, time.monotonic())
        self._due = self._loop.time() + BEAT
        self._timer = self._loop.call_at(self._due, self._beat)


def file_of(folder: Path, pid: int, what: str = WORKER) -> Path:
    """A process's beat: there from when it is ready until it leaves."""
    return folder / f"{what}_{pid}"


def reason_file(folder: Path, pid: int) -> Path:
    """Where a worker leaves why its start failed."""
    return folder / f"failed_{pid}"


def leave_reason(error: BaseException) -> str:
    """Leaves for the supervisor why this process cannot start, in one line, which it returns."""
    reason = " ".join(str(error).split()) or repr(error)
    with contextlib.suppress(OSError, KeyError):
        reason_file(Path(os.environ[DIRECTORY]), os.getpid()).write_text(reason, encoding="utf-8")
    return reason


def beats(folder: Path, what: str = WORKER) -> dict[int, float]:
    """The last beat of every worker, or device process, that is alive, by process id."""
    found = {}
    for path in folder.glob(f"{what}_*"):
        pid = int(path.name.removeprefix(f"{what}_"))
        if Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError, struct.error):  # it has just left
                found[pid] = _BEAT.unpack(path.read_bytes()[: _BEAT.size])[0]
    return found


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process; not one that a debugger holds."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


class Looks:
    """Counts looks in a row at which a beat was the same."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, int]] = {}

    def look(self, beats: Mapping[int, float]) -> dict[int, int]:
        """The count of each process."""
        seen = {}
        for pid, beat in beats.items():
            last, count = self._seen.get(pid, (beat, -1))
            seen[pid] = (beat, count + 1 if beat == last else 0)
        self._seen = seen
        return {pid: count for pid, (_, count) in seen.items()}


class Watchdog:
    """This process's heartbeat, and a thread that watches its loop, its models, its peers and its supervisor.

    Args:
        folder: of the beats.
        alive: whether this worker's models are; asked from the thread.
        longest: seconds that the longest call under way has taken; asked from the thread too.
        metrics: take what hangs.
        timeout: seconds that a request may take.
        what: this process is, `WORKER` or `DEVICE`.
        end: ends the process; another one in tests.
        given_up: looks in a row without `alive` until it does.

    Attributes:
        peer_hangs: a peer has not beaten for `NOT_ALIVE` looks.
    """

    def __init__(
        self,
        folder: Path,
        metrics: Metrics,
        alive: Callable[[], bool],
        longest: Callable[[], float],
        timeout: float,
        what: str = WORKER,
        end: Callable[[str], None] = lambda why: abort(why),
        given_up: int = GIVEN_UP,
    ) -> None:
        self._given_up = given_up
        self._heartbeat = Heartbeat(folder, metrics, what)
        self._folder, self._alive, self._longest, self._end = folder, alive, longest, end
        self._model, self._worker = (metrics.hang_seconds.labels(what) for what in ("model", "worker"))
        self._looks = Looks()
        self._stuck = stuck_after(timeout)
        self._dead = 0
        self._parent = os.getppid()
        self._stopped = threading.Event()
        self.peer_hangs = False

    def start(self) -> None:
        """Beats, in the running loop, and watches from now on.

        Raises:
            OSError: the heartbeat's file cannot be made.
        """
        self._heartbeat.start()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watches no more, and no beat is expected."""
        self._stopped.set()
        self._heartbeat.stop()

    def look(self) -> None:
        """One look."""
        counts = self._looks.look(beats(self._folder) | beats(self._folder, DEVICE))
        self._model.set(self._longest())
        self._worker.set(max(counts.values(), default=0) * LOOK)
        if counts.pop(os.getpid(), 0) >= self._stuck:
            self._end(f"its event loop has not turned for {self._stuck * LOOK:g} s")
        self.peer_hangs = max(counts.values(), default=0) >= NOT_ALIVE
        self._dead = 0 if self._alive() else self._dead + 1
        if self._dead >= self._given_up:
            took = self._given_up * LOOK
            self._end(f"a model has failed or hangs, and only a new process helps ({took:g} s)")
        if os.getppid() != self._parent:
            self._parent = os.getppid()  # once
            logger.error("the supervisor is gone: this worker ends")
            os.kill(os.getpid(), signal.SIGTERM)

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK):
            self.look()


def abort(why: str) -> None:
    """Ends this process by SIGABRT, with the traces of its threads on the standard error."""
    logger.critical("worker (pid %d) is ended: %s", os.getpid(), why)
    written()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    threading.Timer(LAST, os.kill, (os.getpid(), signal.SIGKILL)).start()  # the standard error may be stalled
    faulthandler.dump_traceback()
    os.abort()


def end_within(seconds: float) -> None:
    """Ends this process after so long, whatever hangs: a request, a model's thread, the interpreter's end."""

    def end() -> None:
        logger.critical("what is under way did not end within %.1f s of the signal", seconds)
        time.sleep(LAST)  # for the log's writer
        os._exit(os.EX_SOFTWARE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
