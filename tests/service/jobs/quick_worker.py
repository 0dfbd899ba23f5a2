"""A real job worker whose jobs compute nothing: `python -m tests.service.jobs.quick_worker URL [VERSION]`.

A dead worker is noticed sooner than by default. A job's options say what it does: `pause` seconds for each
step; `ends` by `raise`, `full` (disk) or a signal.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service import __version__
from service.jobs import worker
from service.jobs.job import Files
from service.jobs.queued import connect
from service.jobs.records import JobRecords
from service.telemetry.metrics import Metrics


def run(order: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """In the place of the real one."""
    folder, options = Path(order["folder"]), order["options"]
    for step in range(1, options["steps"] + 1):
        time.sleep(options.get("pause", 0.0))
        if preview := step == 2:
            shutil.copy(folder / "style.png", folder / "preview.png")
        tell({"step": step, "losses": {"style": 2.0}, "preview": preview})
        if ends := options.get("ends"):
            if ends == "raise":
                raise ValueError("as it was told")
            if ends == "full":
                raise OSError(errno.ENOSPC, "as it was told")
            os.kill(os.getpid(), ends)
    shutil.copy(folder / "content.png", folder / "result.png")


def main(url: str, version: str = __version__) -> None:
    """Runs it until SIGTERM."""
    worker.run, worker.HEARTBEAT, worker.LOST = run, 1, 6
    connection = connect(url, persistent=True)
    records = JobRecords(connection, version=version)
    runner = worker.JobRunner(records, Files(None))
    worker.JobWorker(connection, records, runner, Metrics()).work(logging_level="INFO")


if __name__ == "__main__":
    main(*sys.argv[1:])
