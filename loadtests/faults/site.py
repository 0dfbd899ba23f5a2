"""A server that is there to be broken: a process of one's own with its settings, files and log."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self

import psutil  # type: ignore[import-untyped]

from loadtests.server import ROOT, SERVICE, free_port, status


class Site:
    """A server, ended with all that it has started.

    Args:
        settings: by their fields' names.
        begin: called in the process before it becomes the server.
        stdout: takes its standard output in place of its log.
        port, grpc_port: else free ones.

    Attributes:
        folder: has its log, its state, its home, its temporary files.
        began: when it was started, monotonic.
        reader: of its standard output, where that is a pipe.
    """

    reader: IO[bytes]

    def __init__(
        self,
        *,
        begin: Callable[[], None] | None = None,
        stdout: int | None = None,
        folder: Path | None = None,
        port: int = 0,
        grpc_port: int = 0,
        **settings: object,
    ) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="lynceus-faults-") if folder is None else None
        self.folder = folder or Path(self._kept.name if self._kept else "")
        self.port, self.grpc_port = port or free_port(), grpc_port or free_port()
        self.address, self.grpc_address = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.grpc_port}"
        self.log = self.folder / f"log-{self.port}"
        self.state, self.temporary = self.folder / "state", self.folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.workers = int(str(settings.get("workers", 1)))
        chosen: dict[str, Any] = {
            "models": "lenet5",
            "workers": 1,
            "threads": 1,
            "drain_seconds": 1,
            "timeout_seconds": 6,
            "grpc_host": "127.0.0.1",
            "grpc_port": self.grpc_port,
            "state_dir": self.state,
        }
        full = {name: value for name, value in os.environ.items() if not name.startswith("LYNCEUS_")}
        full |= {f"LYNCEUS_{name.upper()}": str(value) for name, value in (chosen | settings).items()}
        full |= {"BENTOML_HOME": str(self.folder / f"home-{self.port}"), "BENTOML_DO_NOT_TRACK": "True"}
        full["TMPDIR"] = str(self.temporary)
        command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", "127.0.0.1"]
        self.began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=ROOT,
                env=full,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,
                preexec_fn=begin,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.session():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        if self._kept is not None:
            self._kept.cleanup()

    def session(self) -> list[psutil.Process]:
        """The server's processes, also those whose parent has gone."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                mine = os.getsid(process.pid) == self.process.pid
                mine = mine or (
                    str(self.folder) in process.environ().get("TMPDIR", "") and process.pid != os.getpid()
                )
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def worker_processes(self) -> list[psutil.Process]:
        """Its workers, by age."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return sorted((one for one in children if _is_worker(one)), key=lambda one: one.create_time())
        return []

    def until_ready(self, seconds: float = 180.0, probes: int = 8) -> float:
        """Until every worker is there and so many probes in a row find it ready: the seconds.

        Raises:
            TimeoutError: it is not, or has ended; with the end of its log.
        """
        began = time.monotonic()
        well = 0
        while well < probes:
            if time.monotonic() > began + seconds or self.process.poll() is not None:
                raise TimeoutError(f"not ready:\n{self.said()[-2000:]}")
            beats = self.folder / f"home-{self.port}" / "prometheus_multiproc_dir"
            beating = [one for one in self.worker_processes() if (beats / f"beat_{one.pid}").exists()]
            ready = len(beating) >= self.workers and status(self.address, "/readyz") == 200
            well = well + 1 if ready else 0
            time.sleep(0.02 if ready else 0.2)
        return time.monotonic() - began

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def metric(self, name: str) -> float:
        """The sum of a metric's values; `name` is a pattern of name and labels."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=15) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name} (\S+)$", text, re.MULTILINE))

    def signal(self, number: signal.Signals) -> None:
        """Sends its supervisor a signal."""
        self.process.send_signal(number)

    def end(self, seconds: float = 60.0) -> tuple[int | None, float]:
        """Waits for its end: its status, None where it has not ended, and the seconds."""
        began = time.monotonic()
        try:
            return self.process.wait(seconds), time.monotonic() - began
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - began

    def refused(self, seconds: float = 60.0) -> tuple[int | None, float]:
        """Waits for the end of a start: its status, and the seconds that it took.

        Without those that it waited for a core, which say how busy the machine is.
        """
        waited, end = 0.0, time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{self.process.pid}/schedstat").read_text()
                waited = int(text.split()[1]) / 1e9
            time.sleep(0.01)
        return self.process.poll(), time.monotonic() - self.began - waited

    def left_behind(self) -> list[str]:
        """Processes, ports and temporary files that are there after its end."""
        found = [f"process {' '.join(process.cmdline())[:60]}" for process in self.session()]
        for port in (self.port, self.grpc_port):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                found.append(f"port {port}")
        return found + sorted(path.name for path in self.temporary.iterdir())


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        forked = process.name().startswith("worker-")  # see service/host/fork.py; on a GPU it is not forked
        return (forked or "--worker-id" in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    return False


def pipe() -> tuple[int, IO[bytes]]:
    """A pipe for a server's output: the end that it writes to, and the reader's."""
    read, write = os.pipe()
    return write, os.fdopen(read, "rb", buffering=0)
