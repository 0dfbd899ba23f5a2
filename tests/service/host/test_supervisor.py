"""What the supervisor says of its workers' ends, with circus' own arbiter and real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.host.supervisor import DEADLY, FAILED_STARTS, count
from service.telemetry.metrics import WORKER_DEATHS
from tests.paths import ROOT

SUPERVISOR = """
import json, logging, sys
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
logging.basicConfig(format="%(message)s", stream=sys.stdout)
from service.host.supervisor import watch_workers
watch_workers(60.0, 6.0)
from circus.watcher import Watcher
from bentoml._internal.utils.circus import create_standalone_arbiter

folder, ends = sys.argv[1], sys.argv[2]
watcher = Watcher("service", sys.executable, args=["-c", ends], numprocesses=1, copy_env=True,
                  respawn=sys.argv[3] == "respawn", env={"PROMETHEUS_MULTIPROC_DIR": folder})
arbiter = create_standalone_arbiter([watcher], check_delay=0.2)
try:
    arbiter.start()
except RuntimeError as error:
    assert "No active process" in str(error), error
registry = CollectorRegistry()
MultiProcessCollector(registry, path=folder)
families = {family.name: family.samples for family in registry.collect()}
(starts,) = families["lynceus_worker_starts"]
assert starts.value == 1
print(json.dumps({sample.labels["signal"]: sample.value for sample in families["lynceus_worker_deaths"]}))
"""


def supervised(folder: Path, ends: str) -> tuple[list[str], dict[str, float]]:
    """The log of a supervisor whose only worker runs these lines of Python, and the deaths that it counts."""
    command = [sys.executable, "-c", SUPERVISOR, str(folder), ends, ""]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    *log, counts = done.stdout.splitlines()
    return log, json.loads(counts)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGXCPU"])
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
    count(tmp_path / "file", WORKER_DEATHS, {"SIGSEGV": 1})


REASON = """
import os, sys
from pathlib import Path
from service.host.heartbeat import reason_file
folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
(folder / f"started_{os.getpid()}").touch()
reason_file(folder, os.getpid()).write_text("the device is not there")
sys.exit(%s)
"""


@pytest.mark.parametrize(("status", "starts"), [("os.EX_CONFIG", 1), ("3", FAILED_STARTS)])
def test_workers_that_cannot_start_end_the_server_with_the_reason(
    tmp_path: Path, status: str, starts: int
) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), REASON % status, "respawn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["lynceus cannot start: the device is not there"]
    assert len(list(tmp_path.glob("started_*"))) == starts


HANGS = """
import os, signal, sys, time
from pathlib import Path
folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
from service.host.heartbeat import _BEAT, file_of
file_of(folder, os.getpid()).write_bytes(_BEAT.pack(1.0))  # it was ready
"""


def hasty(folder: Path, ends: str) -> list[str]:
    """What a supervisor says that looks twenty times a second."""
    look = "import service.host.supervisor\nservice.host.supervisor.LOOK = 0.05\n"
    lines = SUPERVISOR.replace("watch_workers(", f"{look}watch_workers(")
    command = [sys.executable, "-c", lines, str(folder), ends, ""]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    killed, died, counts = hasty(tmp_path, f"{HANGS}time.sleep(1000)")
    assert "does not answer: it is killed" in killed
    assert died.endswith("(SIGKILL)")
    assert json.loads(counts)["SIGKILL"] == 1


def test_a_worker_that_a_signal_stops_is_continued(tmp_path: Path) -> None:
    continued, counts = hasty(tmp_path, f"{HANGS}os.kill(os.getpid(), signal.SIGSTOP)")
    assert "it is continued" in continued
    assert json.loads(counts) == dict.fromkeys(DEADLY, 0)


ALONE = """
import http.client, os, signal, sys, threading, time
from service.host.supervisor import watch_workers
watch_workers(60.0, 6.0)
from circus.sockets import CircusSocket
from circus.watcher import Watcher
from bentoml._internal.utils.circus import create_standalone_arbiter

folder = sys.argv[1]
worker = Watcher("service", sys.executable, args=["-c", sys.argv[2]], numprocesses=1, copy_env=True,
                 env={"PROMETHEUS_MULTIPROC_DIR": folder}, use_sockets=True)
door = CircusSocket("door", host="127.0.0.1", port=0)
arbiter = create_standalone_arbiter([worker], sockets=[door], check_delay=0.2)

def ask():
    while not os.path.exists(f"{folder}/again"):
        time.sleep(0.01)
    client = http.client.HTTPConnection(*door.getsockname(), timeout=60)
    client.request("GET", "/readyz")
    print(client.getresponse().status)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=ask, daemon=True).start()
arbiter.start()
"""

DIES_ONCE = f"""{HANGS}
first = folder / "first"
if first.exists():
    (folder / "again").touch()
    file_of(folder, os.getpid()).unlink()
else:
    first.touch()
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(1000)
"""


def test_while_the_only_worker_is_started_anew_the_supervisor_refuses(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ALONE, str(tmp_path), DIES_ONCE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout == "503\n", done.stderr


BUSY = """
import os, signal, threading, time
def end():
    while not watcher.is_active():
        time.sleep(0.01)
    arbiter._exclusive_running_command = "manage_watchers"  # as while a worker is replaced
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    arbiter._exclusive_running_command = None
threading.Thread(target=end, daemon=True).start()
"""


def test_a_signal_that_comes_while_a_worker_is_replaced_is_not_lost(tmp_path: Path) -> None:
    busy = SUPERVISOR.replace("try:\n    arbiter.start()", f"{BUSY}try:\n    arbiter.start()")
    command = [sys.executable, "-c", busy, str(tmp_path), "import time; time.sleep(1000)", "respawn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(DEADLY, 0)


WITH_DEVICE = """
import json, logging, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
from bentoml._internal.utils.circus import create_standalone_arbiter  # as BentoML: before its hook is called
from service.host.supervisor import add_device_processes, watch_workers
folder, worker = sys.argv[1:]
watch_workers(60.0, 6.0)
add_device_processes(1, "device_double", Path(folder))
from circus.watcher import Watcher
watcher = Watcher("service", sys.executable, args=["-c", worker], numprocesses=1, copy_env=True,
                  env={"PROMETHEUS_MULTIPROC_DIR": folder})
create_standalone_arbiter([watcher], check_delay=0.5).start()
registry = CollectorRegistry()
MultiProcessCollector(registry, path=folder)
samples = {(sample.name, *sample.labels.values()): sample.value
           for family in registry.collect() for sample in family.samples}
print(json.dumps([samples["lynceus_device_deaths_total", "SIGKILL"],
                  samples["lynceus_device_starts_total",]]))
"""

ALIVE = """
import os, time
from pathlib import Path
(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / "worker").write_text(str(os.getpid()))
time.sleep(1000)
"""


def with_device(folder: Path, device: str) -> subprocess.CompletedProcess[str]:
    """A supervisor of one worker and of a device process that runs these lines, with its number."""
    (folder / "device_double.py").write_text(device)
    command = [sys.executable, "-c", WITH_DEVICE, str(folder), ALIVE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


DEVICE_DIES_ONCE = """
import os, signal, sys, time
from pathlib import Path
from service.host.heartbeat import _BEAT, DEVICE, file_of
folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
first = not (folder / "was_here").exists()
(folder / "was_here").touch()
file_of(folder, os.getpid(), DEVICE).write_bytes(_BEAT.pack(1.0))
time.sleep(1)
os.kill(os.getpid() if first else os.getppid(), signal.SIGKILL if first else signal.SIGTERM)
time.sleep(1000)
"""


def test_a_device_process_that_dies_is_logged_counted_and_started_again(tmp_path: Path) -> None:
    done = with_device(tmp_path, DEVICE_DIES_ONCE)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("device process 1 (pid ")]
    assert [line.partition(") ")[2] for line in said] == [
        "is started",
        "was ended by signal 9 (SIGKILL)",
        "is started",
    ]
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 2]


def test_a_device_process_that_cannot_start_ends_the_server_and_its_workers(tmp_path: Path) -> None:
    wait = "while not (folder / 'worker').exists(): time.sleep(0.1)\n"
    device = (REASON % "os.EX_CONFIG").replace("reason_file(folder", f"{wait}reason_file(folder")
    done = with_device(tmp_path, f"import time\n{device}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "lynceus cannot start: the device is not there"
    worker = Path("/proc") / (tmp_path / "worker").read_text() / "cmdline"
    for _ in range(100):
        if not worker.exists() or not worker.read_bytes():
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the worker lives")
