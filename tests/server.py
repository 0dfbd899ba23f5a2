"""A real server process for the end-to-end tests, on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import httpx

from tests.paths import ROOT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`bentoml serve service.bento:Lynceus` with settings of its own; ended by its own id.

    Args:
        log: takes its output.
        target: what is served: a service of the working folder or a built Bento's folder.
        folder: its working folder.
        environment: more variables than the settings.
        stdout: takes its standard output instead of `log`, which has the standard error then.
        begin: called in the process before it becomes the server.
        settings: by their fields' names.
    """

    def __init__(
        self,
        log: Path,
        *,
        target: str = "service.bento:Lynceus",
        folder: Path = ROOT,
        environment: Mapping[str, str] = MappingProxyType({}),
        stdout: Path | None = None,
        begin: Callable[[], None] | None = None,
        **settings: object,
    ) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.grpc_address = f"127.0.0.1:{self.grpc_port}"
        self.log = log
        self._terminated = False
        full = {key: value for key, value in os.environ.items() if not key.startswith("LYNCEUS_")}
        full |= {"LYNCEUS_GRPC_HOST": "127.0.0.1", "LYNCEUS_GRPC_PORT": str(self.grpc_port)}
        full["LYNCEUS_MAX_WAIT_SECONDS"] = "60"  # the machine may be busy
        full["LYNCEUS_STATE_DIR"] = str(log.parent / f"state-{self.port}")
        full |= {f"LYNCEUS_{key.upper()}": str(value) for key, value in settings.items()}
        full |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(log.parent / f"bentoml-{self.port}")}
        full |= environment
        command = [sys.executable, "-m", "bentoml", "serve", target]
        with log.open("wb") as out, stdout.open("wb") if stdout else contextlib.nullcontext(out) as written:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=folder,
                env=full,
                stdout=written,
                stderr=out,
                start_new_session=True,
                preexec_fn=begin,
            )

    def wait(self, seconds: float = 180) -> None:
        """Until it is ready.

        Raises:
            AssertionError: it ended, or was not ready in time; with its log.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-4000:]}"
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError(f"not ready in {seconds} s:\n{self.log.read_text()[-4000:]}")

    def terminate(self) -> None:
        """Once: a second signal, after the process has removed its handlers, would become its exit status."""
        if not self._terminated:
            self._terminated = True
            self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = 60) -> int:
        """Ends it and gives its exit status."""
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # its workers too
            raise
