"""Who lives is told by locks, however a process ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.jobs.liveness import WorkerRegistry
from tests.paths import ROOT

OTHER = """
import sys
from pathlib import Path
from service.jobs.liveness import WorkerRegistry
registry = WorkerRegistry(Path(sys.argv[1]))
registry.enter(lambda: print("first"))
print(registry.name, flush=True)
sys.stdin.read()
"""


def test_the_first_of_a_server_is_told_so(tmp_path: Path) -> None:
    told: list[str] = []
    one, two = WorkerRegistry(tmp_path / "workers"), WorkerRegistry(tmp_path / "workers")
    one.enter(lambda: told.append("one"))
    two.enter(lambda: told.append("two"))
    assert told == ["one"]
    assert one.alive(two.name)
    assert one.alive(one.name)
    one.leave()
    assert not two.alive(one.name)
    two.leave()
    three = WorkerRegistry(tmp_path / "workers")
    three.enter(lambda: told.append("three"))
    assert told == ["one", "three"]
    three.leave()
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["lock"]


def test_a_killed_process_lives_no_more(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        name = process.stdout.readline().strip()
        mine = WorkerRegistry(tmp_path)
        mine.enter(lambda: None)
        assert mine.alive(name)
        process.kill()
        process.wait()
        assert not mine.alive(name)
        assert not mine.alive("never")
        mine.leave()
