"""A worker that dies by a signal: a line in the log, a count, another worker, and answers all the while."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_jobs import children
from tests.server import Server
from tests.service.jobs.small import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    server = Server(
        tmp_path / "log",
        models="lenet5",
        workers=2,
        threads=1,
        drain_seconds=0,
        grpc_port=0,
        timeout_seconds=5,
    )
    try:
        server.wait(300)
        yield server
    finally:
        server.stop()


def deaths(server: Server, name: str) -> float:
    answer = httpx.get(f"{server.url}/metrics", timeout=30)
    if answer.status_code == 503:  # by the supervisor, while no worker serves
        return -1
    (value,) = re.findall(
        rf'^lynceus_worker_deaths_total{{signal="{name}"}} (\S+)$', answer.text, re.MULTILINE
    )
    return float(value)


def workers(server: Server) -> dict[int, str]:
    """The worker processes and their names."""
    found = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in children(server.process.pid)}
    return {pid: name for pid, name in found.items() if name.startswith("worker-")}


def test_a_death_is_logged_counted_and_followed_by_another_start(mortal: Server) -> None:
    assert (deaths(mortal, "SIGSEGV"), deaths(mortal, "SIGKILL")) == (0, 0)
    first = set(workers(mortal))
    assert len(first) == 2
    for killed, number in zip(sorted(first), (signal.SIGSEGV, signal.SIGKILL), strict=True):
        name = number.name
        before = set(workers(mortal))
        os.kill(killed, number)
        line = re.compile(rf"worker \d \(pid {killed}\) was ended by signal {int(number)} \({name}\)")
        until(lambda line=line: line.search(mortal.log.read_text()) is not None)
        until(lambda name=name: deaths(mortal, name) == 1)  # whichever worker is asked
        until(lambda before=before: len(set(workers(mortal)) - before) == 1)
        until(lambda: ready(mortal))
    assert set(workers(mortal)).isdisjoint(first)
    assert deaths(mortal, "SIGSEGV") == 1, "counted once, whatever starts or dies later"
    assert mortal.stop() == 0
    assert len(re.findall(r"worker \d \(pid \d+\) .*ended", mortal.log.read_text())) == 2, (
        "the end of a server is no death"
    )


def ready(server: Server) -> bool:
    """Both workers: each connection may reach the other one."""
    try:
        return all(httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200 for _ in range(8))
    except httpx.HTTPError:
        return False
