"""Workers that are forks of their supervisor, with circus' own arbiter and real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

SUPERVISOR = """
import asyncio, atexit, json, logging, os, signal, sys, threading, time
import _bentoml_impl.worker.service as worker
import circus.watcher
from bentoml._internal.utils.circus import create_standalone_arbiter
from circus.sockets import CircusSocket
from service.host.supervisor import watch_workers

folder, ends = sys.argv[1:]
logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
atexit.register(lambda: print("the supervisor ends"))
preloaded = ["by the supervisor"]

def main(arguments, prog_name):
    exec(ends)

worker.main = main
watch_workers(60.0, 6.0, fork=True)
arguments = ["-m", worker.__name__, "a:B", "--fd", "$(circus.sockets.http)", "--worker-id", "$(CIRCUS.WID)"]
watcher = circus.watcher.Watcher("service", sys.executable, args=arguments, numprocesses=1, copy_env=True,
    use_sockets=True, respawn=False, working_dir=folder, env={"PROMETHEUS_MULTIPROC_DIR": folder})
os.environ["LATER"] = "1"
arbiter = create_standalone_arbiter([watcher], check_delay=0.2, sockets=[CircusSocket("http", port=0)])
try:
    arbiter.start()
except RuntimeError as error:
    assert "No active process" in str(error), error
"""


def supervised(folder: Path, ends: str) -> list[str]:
    """The output of a supervisor whose only worker runs these lines of Python."""
    command = [sys.executable, "-c", SUPERVISOR, str(folder), ends]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FACTS = """
from prometheus_client import Counter
files = [int(one) for one in os.listdir("/proc/self/fd")]
files = [one for one in files if os.path.exists(f"/proc/self/fd/{one}")]  # not the listing's own
Counter("a", "A counter.").inc()
atexit.register(lambda: print("the worker ends"))
names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD")
print(json.dumps({
    "preloaded": preloaded,
    "arguments": arguments,
    "listens": os.readlink(f"/proc/self/fd/{arguments[2]}").partition(":")[0],
    "files": files,
    "input": os.readlink("/proc/self/fd/0"),
    "signals": [signal.getsignal(getattr(signal, name)) is not signal.SIG_DFL for name in names],
    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "session": os.getsid(0) == os.getpid(),
    "folder": os.getcwd(),
    "later": "LATER" in os.environ,
    "metrics": os.path.exists(f"counter_{os.getpid()}.db"),
    "name": open("/proc/self/comm").read().strip(),
    "threads": threading.active_count(),
    "loop": asyncio.run(asyncio.sleep(0, "runs")),
}))
"""


def test_a_worker_begins_as_a_program_does_with_what_the_supervisor_has_loaded(tmp_path: Path) -> None:
    found, *rest = [line for line in supervised(tmp_path, FACTS) if not line.startswith("worker")]
    facts: dict[str, Any] = json.loads(found)
    listener = int(facts["arguments"][2])
    assert facts == {
        "preloaded": ["by the supervisor"],
        "arguments": ["a:B", "--fd", str(listener), "--worker-id", "1"],
        "listens": "socket",
        "files": [0, 1, 2, listener],
        "input": os.devnull,
        "signals": [False, True, False, False],  # Python's own for SIGINT
        "blocked": 0,
        "session": True,
        "folder": str(tmp_path),
        "later": False,
        "metrics": True,
        "name": "worker-1",
        "threads": 1,
        "loop": "runs",
    }
    assert rest == ["the worker ends", "the supervisor ends"], "each at its own end, and once"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("raise SystemExit(0)", ""),
        ("raise SystemExit(3)", "ended with status 3"),
        ("raise SystemExit('a line')", "ended with status 1"),
        ("raise ValueError", "ended with status 1"),
        ("os.kill(os.getpid(), signal.SIGTERM)", ""),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by signal 11 (SIGSEGV)"),
    ],
)
def test_how_a_worker_ends(tmp_path: Path, ends: str, said: str) -> None:
    log = [line for line in supervised(tmp_path, ends) if line.startswith("worker 1 (pid ")]
    assert [line.partition(") ")[2] for line in log] == ([said] if said else [])


PRELOADED = """
import sys, threading
from service.bento import preload
preload()
assert {"service.app", "grpc", "openvino"} <= set(sys.modules)
assert "torch" not in sys.modules
assert threading.enumerate() == [threading.main_thread()]
"""


def test_what_the_supervisor_loads_begins_no_threads_and_has_no_torch() -> None:
    command = [sys.executable, "-c", PRELOADED]
    environment = {**os.environ, "LYNCEUS_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
