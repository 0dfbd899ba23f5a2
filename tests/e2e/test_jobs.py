"""Style jobs on a real server: two workers that share them, events, a picture, a cancellation, a restart."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.paths import SHARED
from tests.server import Server
from tests.service.jobs.small import gone, until

pytestmark = pytest.mark.e2e
SMALL = {"size": 64, "steps": 3, "preview_every": 1}
LONG = {"size": 256, "steps": 1000}


OPTIONS: dict[str, Any] = {"models": "efficientnet-lite0", "workers": 2, "threads": 1, "drain_seconds": 0}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def painting_server(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "log", state_dir=state, **OPTIONS)
    try:
        server.wait(300)
        yield server
    finally:
        server.stop()


@pytest.fixture
def client(painting_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=painting_server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def pictures(dog: bytes) -> dict[str, bytes]:
    painting = sorted((SHARED / "data" / "styles").glob("*.jpg"))[0]
    return {"content": dog, "style": painting.read_bytes()}


def job_processes(server: Server) -> set[int]:
    """The processes of a server's jobs: children of its workers."""
    return {
        job
        for worker in children(server.process.pid)
        for job in children(worker)
        if b"service.jobs.process" in Path(f"/proc/{job}/cmdline").read_bytes()
    }


def children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # that thread has ended
            found += map(int, path.read_text().split())
    return found


def test_a_picture_is_painted_while_its_events_tell_of_it(
    client: httpx.Client, pictures: dict[str, bytes]
) -> None:
    answer = client.post("/v1/stylize/jobs", params=SMALL, files=pictures)
    assert answer.status_code == 202, answer.text
    here = answer.headers["location"]
    with client.stream("GET", f"{here}/events", timeout=300) as stream:
        seen = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert [state["step"] for state in seen] == sorted(state["step"] for state in seen)
    assert seen[-1]["state"] == "succeeded", seen[-1]
    for _ in range(6):  # whichever worker is asked
        with httpx.Client(base_url=client.base_url, timeout=60) as other:
            assert other.get(here).json()["state"] == "succeeded"
    picture = client.get(f"{here}/result", headers={"accept": "image/png"})
    assert Image.open(io.BytesIO(picture.content)).size == (64, 48)
    text = client.get("/metrics").text
    assert 'lynceus_jobs_ended_total{outcome="succeeded"}' in text
    assert 'lynceus_jobs{state="queued"} 0.0' in text


def test_a_cancelled_job_has_stopped(
    painting_server: Server, client: httpx.Client, pictures: dict[str, bytes]
) -> None:
    here = client.post("/v1/stylize/jobs", params=LONG, files=pictures).headers["location"]
    until(lambda: client.get(here).json()["state"] == "running")
    until(lambda: bool(job_processes(painting_server)))
    (pid,) = job_processes(painting_server)
    assert client.delete(here).json()["state"] == "cancelled"
    until(lambda: gone(pid), 20)
    assert client.delete(here).json()["code"] == "job_finished"


def test_a_client_is_refused_beyond_its_share_and_another_is_not(
    client: httpx.Client, pictures: dict[str, bytes]
) -> None:
    def submit(address: str) -> httpx.Response:
        headers = {"x-forwarded-for": address}  # believed where it comes from this machine
        return client.post("/v1/stylize/jobs", params=LONG, files=pictures, headers=headers)

    taken = [submit("192.0.2.1")]
    until(lambda: client.get(taken[0].headers["location"]).json()["state"] == "running")
    taken += [submit("192.0.2.1") for _ in range(4)]  # half of LYNCEUS_MAX_WAITING_JOBS
    refused = submit("192.0.2.1")
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) > 10, "the job that runs takes minutes"
    taken.append(submit("192.0.2.2"))
    assert [answer.status_code for answer in taken] == [202] * 6
    for answer in reversed(taken):
        assert client.delete(answer.headers["location"]).status_code == 200


def test_after_a_restart_a_job_is_told_to_have_failed(
    painting_server: Server, client: httpx.Client, pictures: dict[str, bytes], tmp_path: Path, state: Path
) -> None:
    here = client.post("/v1/stylize/jobs", params=LONG, files=pictures).headers["location"]
    until(lambda: bool(job_processes(painting_server)))
    (pid,) = job_processes(painting_server)
    client.close()
    assert painting_server.stop() == 0
    assert gone(pid)
    again = Server(tmp_path / "log", state_dir=state, **{**OPTIONS, "models": "lenet5", "workers": 1})
    try:
        again.wait(300)
        found = httpx.get(again.url + here, timeout=60).json()
        assert (found["state"], found["reason"]) == ("failed", "restarted")
        assert httpx.get(f"{again.url}/v1/jobs/{'0' * 32}", timeout=60).json()["code"] == "job_unknown"
    finally:
        again.stop()
