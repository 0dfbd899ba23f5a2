"""`python -m loadtests` judges a real service: it passes as it is, and fails with a fault put in.

What is expected holds on a slow and busy machine. The limits are times of what one request takes in process
while the run lasts, so whatever else the machine does slows down both. At half of its load the honest service
answers in one to two times of that; one whose network takes three times as long is asked for half as much
again as it can do, and its queue has grown to some twenty times by the middle of the run. The limit lies in
between. The honest run may try again, in case the machine had no time for it. Errors are counted: no clock is
asked.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from loadtests.record import Record
from tests.paths import ROOT
from tests.server import Server

pytestmark = pytest.mark.e2e
REQUESTS = 100
LIMITS = """
[profile]
load = 0.5
arrivals = "fixed"
settle_seconds = 5
[mix]
classify = 5
"classify/grpc" = 1
[limits]
p50 = 4.0
p99 = 200
error_rate = 0.001
shed_rate = 0.01
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with limits, and with pictures of blurred noise."""
    folder = tmp_path_factory.mktemp("loadtest")
    (folder / "slo.toml").write_text(LIMITS, encoding="utf-8")
    (folder / "pictures").mkdir()
    source = np.random.default_rng(1)
    for number in range(6):
        noise = source.integers(0, 256, (240, 320, 3), np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{number}.jpg"), cv2.GaussianBlur(noise, (9, 9), 0))
    return folder


@pytest.fixture(scope="module")
def faulty(folder: Path) -> Iterator[Server]:
    """The service, with whatever fault stands in the file `fault`."""
    server = Server(
        folder / "log",
        target="tests.faulty:Lynceus",
        environment={"FAULT": str(folder / "fault")},
        models="efficientnet-lite0",
        drain_seconds=0,
    )
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def judged(faulty: Server, folder: Path, fault: str) -> subprocess.CompletedProcess[str]:
    (folder / "fault").write_text(fault)
    command = [sys.executable, "-m", "loadtests", "--slo", folder / "slo.toml", "--requests", str(REQUESTS)]
    command += ["--reference-seconds", "0.5", "--output", folder / (fault or "honest")]
    command += ["--server-url", faulty.url, "--grpc", faulty.grpc_address]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LYNCEUS_")}
    environment["LOADTEST_IMAGES"] = str(folder / "pictures")
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def verdict(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stdout.strip().splitlines()
    assert lines, done.stderr[-4000:]
    return lines[-1]


def test_the_honest_service_passes_and_leaves_a_report(faulty: Server, folder: Path) -> None:
    for _ in range(3):
        done = judged(faulty, folder, "")
        if done.returncode == 0:
            break
    assert verdict(done) == "PASSED: every limit was kept", done.stdout + done.stderr[-4000:]
    record = Record.read(folder / "honest" / "record.json")
    assert len(record.requests) == pytest.approx(REQUESTS, abs=1)
    assert {request.task for request in record.requests} == {"classify", "classify/grpc"}
    assert all(request.batch for request in record.requests), "both transports report the batch"
    assert any('lynceus_queue_depth{model="efficientnet-lite0"}' in each.values for each in record.samples)
    page = (folder / "honest" / "report.html").read_text(encoding="utf-8")
    assert "PASSED" in page
    assert page.count("<svg") == 1


def test_a_network_three_times_slower_and_one_error_in_a_hundred_fail_for_both(
    faulty: Server, folder: Path
) -> None:
    done = judged(faulty, folder, "slow, errors")
    said = verdict(done)
    assert said.startswith("FAILED: "), done.stdout + done.stderr[-4000:]
    assert re.search(r"classify: p50 \d+ ms, limit \d+ ms", said)
    assert re.search(r"classify(/grpc)?: \d of \d+ answers are errors [^;]*internal", said, re.IGNORECASE)
    assert done.returncode == 1
