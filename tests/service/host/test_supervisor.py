"""What the supervisor says of its workers' ends, with circus' own arbiter and real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.host.supervisor import DEADLY, count_deaths
from tests.paths import ROOT

SUPERVISOR = """
import json, logging, sys
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
logging.basicConfig(format="%(message)s", stream=sys.stdout)
from service.host.supervisor import watch_workers
watch_workers()
from circus.watcher import Watcher
from bentoml._internal.utils.circus import create_standalone_arbiter

folder, ends = sys.argv[1], sys.argv[2]
watcher = Watcher("service", sys.executable, args=["-c", ends], numprocesses=1, respawn=False,
                  copy_env=True, env={"PROMETHEUS_MULTIPROC_DIR": folder})
arbiter = create_standalone_arbiter([watcher], check_delay=0.2)
try:
    arbiter.start()
except RuntimeError as error:
    assert "No active process" in str(error), error
registry = CollectorRegistry()
MultiProcessCollector(registry, path=folder)
(family,) = registry.collect()
print(json.dumps({sample.labels["signal"]: sample.value for sample in family.samples}))
"""


def supervised(folder: Path, ends: str) -> tuple[list[str], dict[str, float]]:
    """The log of a supervisor whose only worker runs these lines of Python, and the deaths that it counts."""
    command = [sys.executable, "-c", SUPERVISOR, str(folder), ends]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    *log, counts = done.stdout.splitlines()
    return log, json.loads(counts)


@pytest.mark.parametrize("name", [*DEADLY, "SIGXCPU"])
def test_a_signal_is_logged_and_counted(tmp_path: Path, name: str) -> None:
    ends = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    log, counts = supervised(tmp_path, ends)
    (line,) = log
    assert line.startswith("worker 1 (pid ")
    assert line.endswith(f"({name})")
    assert counts == {**dict.fromkeys(DEADLY, 0), name: 1}


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("raise SystemExit(0)", ""),
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", ""),
    ],
)
def test_an_end_without_a_fault_is_not_counted(tmp_path: Path, ends: str, said: str) -> None:
    log, counts = supervised(tmp_path, ends)
    assert [line.partition(") ")[2] for line in log] == ([said] if said else [])
    assert counts == dict.fromkeys(DEADLY, 0)


def test_a_full_disk_costs_the_count_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    count_deaths(str(tmp_path / "file"), {"SIGSEGV": 1})
    count_deaths(None, {"SIGSEGV": 1})
