"""A server of one's own: starts the service on a free loopback port, waits until it is ready, and ends it.

Only processes started here are ever signalled.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[1]
SERVICE = "service.bento:Lynceus"


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exit_on_sigterm() -> None:
    """Makes SIGTERM an exit like any other, or a run that is ended would leave its server behind."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class Server:
    """`bentoml serve` as a context manager.

    Args:
        environment: settings on top of this process's environment, such as `LYNCEUS_WORKERS`.
        timeout: seconds until it must be ready, weights verified and every model warm.
        root: the checkout that is served.

    Attributes:
        address: ``host:port`` of HTTP.
        grpc_address: the same of gRPC.
        log: the file that takes its output.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        timeout: float = 300.0,
        root: Path = ROOT,
    ) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.grpc_address = f"127.0.0.1:{free_port()}"
        self.timeout = timeout
        self._root = root
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self.log = Path(tempfile.gettempdir()) / f"lynceus-{self.address.rpartition(':')[2]}.log"

    def __enter__(self) -> Self:
        exit_on_sigterm()
        host, _, port = self.address.partition(":")
        grpc_host, _, grpc_port = self.grpc_address.partition(":")
        command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", host, "--port", port]
        # of its own: it has the workers' metrics, and a server empties it when it starts
        self._home = tempfile.TemporaryDirectory(prefix="lynceus-bentoml-")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._root,
                env={
                    **os.environ,
                    "LYNCEUS_GRPC_HOST": grpc_host,
                    "LYNCEUS_GRPC_PORT": grpc_port,
                    **self._environment,
                    "BENTOML_HOME": self._home.name,
                    "BENTOML_DO_NOT_TRACK": "True",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, timeout: float = 60.0) -> None:
        """Ends it as an operator does (SIGTERM), and what is left of it after `timeout` seconds for good."""
        if self._process is None:
            return
        processes = self.processes()
        self._process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=timeout)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None
        if self._home is not None:
            self._home.cleanup()

    def processes(self) -> list[psutil.Process]:
        """The processes of the server: the parent and its workers; empty when it has ended."""
        if self._process is None or self._process.poll() is not None:
            return []
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_seconds(self, module: str = "") -> float:
        """Computed so far by its processes that live, or by those that were started as one module."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if module and module not in process.cmdline():
                    continue
                times = process.cpu_times()
                total += float(times.user + times.system)
        return total

    def resident_bytes(self) -> int:
        """Resident memory, summed over its processes (pages that they share count in each)."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += int(process.memory_info().rss)
        return total

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + self.timeout
        while status(self.address, "/readyz") != 200:
            if not self.processes():
                raise RuntimeError(f"the server ended before it was ready:\n{self._last_words()}")
            if time.monotonic() > give_up:
                raise TimeoutError(f"the server was not ready in {self.timeout} s:\n{self._last_words()}")
            time.sleep(0.2)
        # One worker has answered; the others are ready when nothing in there computes any more.
        quiet = 0
        while quiet < 3 and time.monotonic() < give_up:
            before = self.cpu_seconds()
            time.sleep(0.5)
            quiet = quiet + 1 if self.cpu_seconds() - before < 0.05 else 0

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def status(address: str, path: str) -> int | None:
    """The status of a GET, or None without an answer."""
    host, _, port = address.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
