"""`make serve` twice on one machine: each server has its own ports and folder."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.paths import ROOT

OURS = ("BENTOML_HOME", "LYNCEUS_GRPC_PORT")


def started_with(port: int, **given: str) -> dict[str, str]:
    """The variables of the command that `make serve` ends with."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    command = ["make", "--dry-run", "serve", f"PORT={port}"]
    done = subprocess.run(command, cwd=ROOT, env=clean | given, capture_output=True, text=True, check=True)
    return dict(re.findall(r"(\w+)=(\S+)", done.stdout.rpartition("mkdir")[2]))


def test_two_servers_share_nothing() -> None:
    first, second = started_with(3000), started_with(3100)
    assert (first["LYNCEUS_GRPC_PORT"], second["LYNCEUS_GRPC_PORT"]) == ("3001", "3101")
    assert first["BENTOML_HOME"] != second["BENTOML_HOME"]


def test_what_the_environment_says_is_taken() -> None:
    given = started_with(3000, BENTOML_HOME="/srv/home", LYNCEUS_GRPC_PORT="0")
    assert (given["BENTOML_HOME"], given["LYNCEUS_GRPC_PORT"]) == ("/srv/home", "0")


def test_an_older_python_is_refused_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\n")  # answers as one that is older than 3.11 does
    old.chmod(0o755)
    command = ["make", "serve", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    # without what `make test` leaves of itself
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "Python 3.11" in line
    assert str(old) in line
    assert not (tmp_path / "venv").exists()
