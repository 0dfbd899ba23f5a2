"""Heartbeats, and what the watchdog makes of them; it looks when a test says so."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.host import heartbeat
from service.host.heartbeat import (
    GIVEN_UP,
    NOT_ALIVE,
    Heartbeat,
    Looks,
    Watchdog,
    beats,
    file_of,
    is_stopped,
    stuck_after,
)
from service.telemetry.metrics import Metrics
from tests.paths import ROOT


def beat_of(folder: Path, pid: int, value: float) -> None:
    file_of(folder, pid).write_bytes(heartbeat._BEAT.pack(value))


TIMEOUT = 9.0


def watchdog(folder: Path, alive: Callable[[], bool] = lambda: True, **options: Any) -> Watchdog:
    return Watchdog(folder, options.pop("metrics", Metrics()), alive, lambda: 12.5, TIMEOUT, **options)


def test_what_hangs_is_measured(tmp_path: Path) -> None:
    metrics = Metrics()
    dog = watchdog(tmp_path, metrics=metrics)
    beat_of(tmp_path, os.getppid(), 1.0)
    for _ in range(4):
        dog.look()
    sample = metrics.registry.get_sample_value
    assert sample("lynceus_hang_seconds", {"what": "model"}) == 12.5
    assert sample("lynceus_hang_seconds", {"what": "worker"}) == 3.0


def test_a_loop_beats_and_its_lag_is_measured(tmp_path: Path) -> None:
    metrics = Metrics()

    async def go() -> None:
        mine = Heartbeat(tmp_path, metrics)
        mine.start()
        first = beats(tmp_path)[os.getpid()]
        mine._beat()
        assert beats(tmp_path)[os.getpid()] > first
        mine.stop()
        assert beats(tmp_path) == {}

    asyncio.run(go())
    assert metrics.registry.get_sample_value("lynceus_loop_lag_seconds_count") == 2


def test_a_process_that_is_gone_has_no_beat(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    beat_of(tmp_path, gone.pid, 1.0)
    assert beats(tmp_path) == {}


def test_a_worker_is_given_as_long_as_a_request_within_bounds() -> None:
    assert [stuck_after(timeout) for timeout in (0.1, 6.0, 6.1, 19.5, 3600.0)] == [6, 6, 7, 20, 20]


def test_a_process_that_a_signal_has_stopped_is_known() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            assert not is_stopped(process.pid)
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            assert is_stopped(process.pid)
        finally:
            process.kill()
    assert not is_stopped(process.pid)


def test_looks_in_a_row_count_and_a_beat_ends_them() -> None:
    looks = Looks()
    assert [looks.look({1: 5.0})[1] for _ in range(3)] == [0, 1, 2]
    assert looks.look({1: 6.0}) == {1: 0}
    assert looks.look({}) == {}
    assert looks.look({1: 6.0}) == {1: 0}


def test_the_watchdog_ends_a_worker_whose_loop_does_not_turn(tmp_path: Path) -> None:
    told: list[str] = []
    dog = watchdog(tmp_path, end=told.append)
    beat_of(tmp_path, os.getpid(), 1.0)
    for _ in range(int(TIMEOUT)):
        dog.look()
    assert told == []
    dog.look()
    assert "has not turned" in told[0]


def test_the_watchdog_ends_a_worker_whose_model_hangs(tmp_path: Path) -> None:
    told: list[str] = []
    alive = [False]
    dog = watchdog(tmp_path, alive=lambda: alive[0], end=told.append)
    for _ in range(GIVEN_UP - 1):
        dog.look()
    alive[0] = True
    dog.look()
    alive[0] = False
    for _ in range(GIVEN_UP - 1):
        dog.look()
    assert told == []
    dog.look()
    assert "only a new process helps" in told[0]


def test_one_that_only_its_supervisor_begins_anew_is_not_kept(tmp_path: Path) -> None:
    told: list[str] = []
    watchdog(tmp_path, alive=lambda: False, end=told.append, given_up=1).look()
    assert "only a new process helps (1 s)" in told[0]


def test_a_peer_that_goes_on_hanging_is_told_until_it_beats(tmp_path: Path) -> None:
    dog = watchdog(tmp_path)
    beat_of(tmp_path, os.getppid(), 1.0)
    for _ in range(NOT_ALIVE):
        dog.look()
    assert not dog.peer_hangs
    dog.look()
    assert dog.peer_hangs
    beat_of(tmp_path, os.getppid(), 2.0)
    dog.look()
    assert not dog.peer_hangs


ORPHAN = """
import os, signal, subprocess, sys, time
from pathlib import Path
from service.host.heartbeat import Watchdog
from service.telemetry.metrics import Metrics
def end(*_):
    Path(sys.argv[1]).write_text("SIGTERM")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
heartbeat = Watchdog(Path(sys.argv[1]).parent, Metrics(), lambda: True, lambda: 0.0, 30.0)
print("begun", flush=True)
while os.getppid() == heartbeat._parent:
    time.sleep(0.01)
heartbeat.look()
"""


def test_a_worker_without_its_supervisor_ends(tmp_path: Path) -> None:
    told = tmp_path / "told"
    between = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {ORPHAN!r}, sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid)
"""
    done = subprocess.run(
        [sys.executable, "-c", between, str(told)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert int(done.stdout)
    for _ in range(3000):
        if told.exists() and told.read_text():
            break
        subprocess.run(["sleep", "0.01"], check=True)
    assert told.read_text() == "SIGTERM"


def test_a_hung_worker_ends_with_the_traces_of_its_threads() -> None:
    lines = "from service.telemetry.log import write_in_threads\nfrom service.host.heartbeat import abort\n"
    lines += "import logging; logging.basicConfig(); write_in_threads()\nabort('of a test')"
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == -signal.SIGABRT
    assert 'File "<string>", line 4' in done.stderr
    assert "of a test" in done.stderr, "the log's thread has written it before"


def test_an_end_has_a_bound_whatever_hangs() -> None:
    lines = "import threading\nfrom service.host.heartbeat import end_within\nend_within(0.1)\n"
    lines += "threading.Thread(target=threading.Event().wait).start()"  # which the interpreter waits for
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == os.EX_SOFTWARE
