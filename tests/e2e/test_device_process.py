"""The device process as it is deployed: answers, its death, what is counted; a reduced run of the kills."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.faults.case import digit
from tests.e2e.test_jobs import children
from tests.paths import ROOT
from tests.server import Server
from tests.service.jobs.small import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(
        tmp_path / "log",
        engine="process",
        models="lenet5,paintings",
        workers=2,
        threads=1,
        drain_seconds=0,
        timeout_seconds=20,
    )
    try:
        made.wait(300)
        yield made
    finally:
        made.stop()


def device(server: Server) -> int:
    """The device process' id; 0 while there is none."""
    for pid in children(server.process.pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if "service.device" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
    return 0


def ready(server: Server) -> bool:
    """Both workers: each connection may reach the other one."""
    try:
        return all(httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200 for _ in range(8))
    except httpx.HTTPError:
        return False


def metric(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    return sum(float(value) for value in re.findall(rf"^{name} (\S+)$", text, re.MULTILINE))


def test_it_computes_for_all_workers_and_its_death_is_seen_and_healed(server: Server) -> None:
    image = digit()
    model = httpx.get(f"{server.url}/v1/models/lenet5", timeout=30).json()
    assert (model["ready"], model["device"]) == (True, "cpu")
    answers = [httpx.post(f"{server.url}/v1/classify", content=image, timeout=30).json() for _ in range(8)]
    assert all(answer == answers[0] for answer in answers)
    painted = httpx.post(f"{server.url}/v1/stylize", content=image, timeout=30)
    assert (painted.status_code, painted.headers["content-type"]) == (200, "image/jpeg")
    refused = httpx.post(f"{server.url}/v1/classify", content=b"no image", timeout=30)
    assert refused.json()["code"] == "media_type"
    assert metric(server, 'lynceus_batches_total{model="lenet5",size="1"}') == 8
    before = device(server)
    os.kill(before, signal.SIGKILL)
    until(lambda: device(server) not in (0, before))
    until(lambda: ready(server))
    assert f"device process 1 (pid {before}) was ended by signal 9 (SIGKILL)" in server.log.read_text()
    assert metric(server, r'lynceus_device_deaths_total{signal="SIGKILL"}') == 1
    assert metric(server, "lynceus_device_starts_total") == 2
    assert metric(server, "lynceus_worker_starts_total") == 2, "the workers live"
    until(
        lambda: metric(server, r'lynceus_device_up{device="device-1"}') == 1
    )  # the other worker's connection too
    until(lambda: httpx.post(f"{server.url}/v1/classify", content=image, timeout=30).json() == answers[0])
    assert server.stop() == 0


def test_a_kill_under_load_costs_no_answer_and_mixes_none() -> None:
    command = [sys.executable, "-m", "loadtests.faults.kills", "--requests", "300", "--clients", "4"]
    command += ["--kills", "1", "--seed", "0"]  # of a front end and the device process at once
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert json.loads(done.stdout)["requests"]["ok"] >= 300
