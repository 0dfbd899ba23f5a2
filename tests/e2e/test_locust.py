"""The closed loop of `loadtests` against a real server: every kind of user, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT, needs_shared
from tests.server import Server

pytestmark = [pytest.mark.e2e, needs_shared]


def test_every_user_gets_right_answers(server: Server, tmp_path: Path) -> None:
    files = "loadtests/locustfile.py,loadtests/shapefile.py"
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        files,
        "--host",
        server.url,
        "--grpc",
        server.grpc_address,
    ]
    command += ["--headless", "--shape", "steady", "--seconds", "5", "-u", "18", "--equal-weights"]
    command += ["--stop-timeout", "120", "--csv", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LYNCEUS_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    told = (tmp_path / "run_stats.csv").read_text(encoding="utf-8")
    assert "grpc,classify/grpc" in told
    assert "POST,classify" in told
