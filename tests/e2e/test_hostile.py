"""What hostile requests cost a real server: a reduced run of `loadtests.hostile`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.e2e

CASES = (
    "decode jpeg progressive|decode png rgba|decode webp alpha|explain png 1 bit|explain windows 1e-320|"
    "inputs of lists, gzip|multipart near|infer inputs, 8 MiB|malformed 0 ModelInfer|headers one|half closed"
)
"""One of each kind; tests/loadtests/test_hostile_files.py has the others' files."""


def test_hostile_requests_cost_no_more_than_the_bars() -> None:
    run = [sys.executable, "-m", "loadtests.hostile", "--quick", "--alone", "--workers", "1"]
    run += ["--models", "efficientnet-lite0"]  # which all of these ask
    command = [*run, "--slack", "3", "--case", CASES]  # a machine for tests may be slow and busy
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
