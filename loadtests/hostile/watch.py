"""CPU time and memory of a server's processes, from /proc.

CPU time is that of the server's own processes, whatever else the machine does; processes of a lower
priority (style jobs) are left out. Memory is the sum of proportional set sizes (PSS), in which a page that
processes share counts once.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
JOB = 3
"""A process whose nice value is so much over the server's is a style job, which runs in idle time."""
EVERY = 0.05
GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server has used since `reset`.

    Attributes:
        cpu: seconds, of all of its processes.
        peak: largest sum of PSS, bytes.
        rise: sum over the processes of their peak resident size (VmHWM) over their size at the reset, bytes.
        died: processes that were there at the reset and are not any more.
    """

    cpu: float
    peak: int
    rise: int
    died: int


class Watch:
    """Samples a process and its descendants in a thread of its own.

    Args:
        root: the server's first process.
        most: bytes of PSS over which `stop` is called: the machine has more to do than this server.
        stop: ends the server.
    """

    def __init__(self, root: int, most: int, stop: Callable[[], None]) -> None:
        self._root = root
        self._most = most
        self._stop = stop
        self._cpu: dict[int, float] = {}
        self._before: dict[int, int] = {}
        self._base = 0.0
        self._peak = 0
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.exceeded = False

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def reset(self) -> None:
        """Resets CPU time, peaks, and the list of processes."""
        with self._lock:
            self._sample()
            self._base = sum(self._cpu.values())
            self._peak = 0
            self._before = {}
            for pid in self.workers():
                with contextlib.suppress(*GONE, PermissionError):
                    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins at the present size
                    self._before[pid] = _status(pid, "VmRSS")

    def usage(self) -> Usage:
        """Since the last reset."""
        with self._lock:
            self._sample()
            rise, died = 0, 0
            living = set(self.workers())
            for pid, before in self._before.items():
                if pid not in living:  # or a zombie, which its parent has not reaped yet
                    died += 1
                    continue
                with contextlib.suppress(*GONE):
                    rise += max(0, _status(pid, "VmHWM") - before)
            return Usage(sum(self._cpu.values()) - self._base, self._peak, rise, died)

    def cpu(self) -> float:
        """Seconds since the last reset."""
        with self._lock:
            self._sample(memory=False)
            return sum(self._cpu.values()) - self._base

    def until_quiet(self, idle: float, most: float, window: float = 0.25) -> float:
        """Waits until the processes take no more than `idle` cores and a little, for at most `most` seconds.

        Returns:
            CPU seconds that they took meanwhile.
        """
        begin = before = self.cpu()
        end = time.monotonic() + most
        while time.monotonic() < end:
            time.sleep(window)
            now = self.cpu()
            if now - before <= (idle + 0.08) * window + 1 / TICK:
                return now - begin
            before = now
        return self.cpu() - begin

    def is_quiet(self, idle: float) -> bool:
        """Whether the processes take no more than `idle` cores and a little now."""
        before = self.cpu()
        time.sleep(0.5)
        return self.cpu() - before <= (idle + 0.08) * 0.5 + 1 / TICK

    def workers(self) -> list[int]:
        """Living processes of the server but its first one and its style jobs."""
        return [pid for pid in self._tree(self._root) if pid != self._root and self._works(pid)]

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            with self._lock:
                self._sample()
            if self._peak > self._most and not self.exceeded:
                self.exceeded = True
                self._stop()

    def _sample(self, *, memory: bool = True) -> None:
        total, nice = 0, _nice(self._root)
        for pid in self._tree(self._root):
            with contextlib.suppress(*GONE):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if int(fields[16]) < nice + JOB:
                    self._cpu[pid] = (int(fields[11]) + int(fields[12])) / TICK
                else:  # what it took before it became a style job does not count either
                    self._cpu.pop(pid, None)
                if memory:
                    total += pss(pid)
        self._peak = max(self._peak, total)

    def _works(self, pid: int) -> bool:
        with contextlib.suppress(*GONE):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state not in "ZX" and _nice(pid) < _nice(self._root) + JOB
        return False

    def _tree(self, pid: int) -> list[int]:
        found = [pid]
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(*GONE):
                for child in path.read_text().split():
                    found += self._tree(int(child))
        return found


def pss(pid: int) -> int:
    """The proportional set size of a process, bytes; 0 where it has gone."""
    with contextlib.suppress(*GONE, PermissionError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _nice(pid: int) -> int:
    with contextlib.suppress(*GONE):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])
    return 0
