"""A job worker as a process of its own session, ended by its own id."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.paths import ROOT


class WorkerProcess:
    """A Python process with these arguments; what it prints is added to `log`."""

    def __init__(self, log: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, *arguments]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
            )

    def job_processes(self) -> list[int]:
        """The processes of its jobs, which any of its threads may have started."""
        found: list[int] = []
        for path in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, path.read_text().split())
        return found

    def end(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """The exit status after a signal, unless it has ended already."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(60)
