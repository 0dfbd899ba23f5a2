"""The metrics of several workers on a full disk: no request fails, no process dies, nothing is made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

FULL = """
import resource
from service.telemetry.metrics import Metrics

def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

metrics = Metrics()
before = metrics.requests.labels("before", "http", "ok")
before.inc()
allow(1 << 16)  # no file may grow: what a full disk does, without the rights to fill one
for round in (1, 2):
    before.inc()
    for number in range(600):
        metrics.requests.labels(f"new{number}", "http", "ok").inc()
    text = metrics.render().decode()
    assert 'lynceus_requests_total{code="ok",task="before",transport="http"} %d.0' % (1 + round) in text
    assert 'task="new0"' in text and 'task="new599"' not in text
allow(resource.RLIM_INFINITY)
for number in range(600):
    metrics.requests.labels(f"new{number}", "http", "ok").inc()
text = metrics.render().decode()
assert 'lynceus_requests_total{code="ok",task="new0",transport="http"} 3.0' in text
assert 'lynceus_requests_total{code="ok",task="new599",transport="http"} 3.0' in text
assert 'lynceus_requests_total{code="ok",task="before",transport="http"} 3.0' in text
"""

NO_ROOM = """
import os, resource
from pathlib import Path
from service.telemetry.metrics import DIRECTORY, Metrics
folder = Path(os.environ[DIRECTORY])

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, resource.RLIM_INFINITY))
try:
    Metrics()  # some have no labels: their files are made at once
except OSError as error:
    assert "too large" in str(error)
else:
    raise AssertionError("a file was made where there is no room")
assert list(folder.iterdir()) == []
"""


def run(script: str, folder: Path) -> None:
    """In a process of its own, as a worker is: which kind of values there are is decided by an import."""
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_disk_that_fills_costs_new_labels_and_gives_them_back(tmp_path: Path) -> None:
    run(FULL, tmp_path)


def test_no_room_at_the_start_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run(NO_ROOM, tmp_path)
