"""The log's writer: it never blocks who logs, and tells what it dropped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from service.telemetry.log import LogWriter
from service.telemetry.oom import oom_kills
from tests.paths import ROOT


def test_a_reader_that_stalls_costs_lines_and_no_time() -> None:
    read, write = os.pipe()
    dropped: list[None] = []
    writer = LogWriter(write, lambda: dropped.append(None), waiting=10)
    line = "x" * 4096 + "\n"
    for _ in range(1000):  # many times what a pipe holds
        writer.write(line)
    assert 900 < len(dropped) < 1000
    kept = 1000 - len(dropped)
    got = b""
    while len(got) < kept * len(line):  # it goes on
        got += os.read(read, 1 << 16)
    assert got.decode() == kept * line
    writer.write("after\n")
    assert os.read(read, 100) == b"after\n"
    os.close(read)
    writer.write("not read\n")
    writer.drain(60)
    os.close(write)


def test_lines_are_written_together_but_never_mixed_with_those_of_others() -> None:
    """Each write is of whole lines, and of no more bytes than a pipe takes at once."""
    read, write = os.pipe()
    writers = [LogWriter(os.dup(write)) for _ in range(3)]
    os.close(write)
    lines = [f"{name} {index} {'x' * (index * 37 % 700)}\n" for name in "abc" for index in range(300)]
    written = {name: [line for line in lines if line.startswith(name)] for name in "abc"}
    for several in zip(*written.values(), strict=True):
        for writer, line in zip(writers, several, strict=True):
            writer.write(line)
    got = b""
    while len(got) < sum(map(len, lines)):
        got += os.read(read, 1 << 16)
    os.close(read)
    found = got.decode().splitlines(keepends=True)
    assert sorted(found) == sorted(lines)
    for name, wanted in written.items():
        assert [line for line in found if line.startswith(name)] == wanted


def test_everything_goes_through_it_and_is_written_at_the_end() -> None:
    lines = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
from service.telemetry.log import write_in_threads
write_in_threads()
logging.info("logged")
print("printed")
sys.exit("the reason")
"""
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["logged", "printed"]
    assert done.stderr.splitlines() == ["the reason"]


def test_a_process_that_ends_at_once_can_have_its_lines_written() -> None:
    lines = """
import os, sys
from service.telemetry.log import write_in_threads, written
write_in_threads()
print("the last line", file=sys.stderr)
written()
os._exit(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (3, "the last line\n")


def test_oom_kills_are_those_of_the_own_cgroup_or_the_machines(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    assert oom_kills(proc, groups) == 0
    (proc / "self").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 1\noom_kill 7\n")
    assert oom_kills(proc, groups) == 7
    (groups / "pod").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/pod\n")
    (groups / "pod" / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(proc, groups) == 2
