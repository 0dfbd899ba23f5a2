"""Faults that take no long time, injected into real servers: a reduced run of `loadtests.faults`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.e2e

STARTS = "start: TLS files|start: the gRPC port"
STOOD = "SIGHUP|SIGSTOP of one of two workers$|random bytes on both|reader closes"


def test_nothing_hangs_nothing_is_lost_nothing_is_left_behind() -> None:
    command = [sys.executable, "-m", "loadtests.faults", "--together", "--case", f"{STARTS}|{STOOD}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
