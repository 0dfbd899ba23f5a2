"""The folder for temporary files: gone with its server, or with the next one's start."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

SERVER = """
import os, signal, subprocess, sys, tempfile
from service.host.scratch import use_own
folder = use_own()
with tempfile.NamedTemporaryFile(delete=False) as file:
    file.write(b"left")
child = "import tempfile; print(tempfile.gettempdir())"
told = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.strip()
assert told == str(folder)
print(folder, flush=True)
if sys.argv[1:]:
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments],
        cwd=ROOT,
        env={"TMPDIR": str(folder), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_it_goes_with_its_server_and_that_of_a_killed_one_with_the_next_start(tmp_path: Path) -> None:
    killed = start(tmp_path, "killed")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert len(list(left.iterdir())) == 2
    first = start(tmp_path)
    assert first.stdout is not None
    folder = Path(first.stdout.readline().strip())
    assert list(tmp_path.iterdir()) == [folder], "what is not in use is gone"
    second = start(tmp_path)
    assert second.stdout is not None
    second.stdout.readline()
    assert folder.is_dir(), "another server uses it"
    for server in (first, second):
        server.communicate()
        assert server.returncode == 0
    assert list(tmp_path.iterdir()) == []
