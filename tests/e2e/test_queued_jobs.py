"""Jobs beyond one machine: a real Redis, two services and two job workers as processes.

`tests/service/jobs/test_queued.py` has what becomes of jobs as workers and Redis die: with the same
workers, whose jobs compute nothing.
"""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.server import Server
from tests.service.jobs.redis_server import RedisServer, needs_redis
from tests.service.jobs.small import CONTENT, STYLE, until
from tests.service.jobs.worker_process import WorkerProcess

pytestmark = [pytest.mark.e2e, needs_redis]
FILES = {"content": CONTENT, "style": STYLE}
LONG = {"size": 256, "steps": 1000}
TWO = {"size": 64, "steps": 2, "levels": 1}
MINUTES = 5 * 60.0


def job_worker(log: Path, redis: str) -> WorkerProcess:
    """`python -m service.jobs.worker` with a Redis."""
    full = {key: value for key, value in os.environ.items() if not key.startswith("LYNCEUS_")}
    full |= {"LYNCEUS_JOBS": redis, "LYNCEUS_JOB_METRICS_PORT": "0"}
    return WorkerProcess(log, "-m", "service.jobs.worker", env=full)


class Fleet:
    """A Redis that is not there yet, two services, and no job worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        self.redis.kill()
        options: dict[str, Any] = {"models": "lenet5", "workers": 1, "threads": 1, "drain_seconds": 0}
        options |= {"jobs": self.redis.url, "grpc_port": 0}
        self.services = [Server(folder / f"service-{number}.log", **options) for number in range(2)]
        self.workers: list[WorkerProcess] = []
        for service in self.services:
            service.wait(MINUTES)
        self.clients = [httpx.Client(base_url=service.url, timeout=60) for service in self.services]

    def begin(self) -> None:
        """The Redis, and two job workers."""
        self.redis.start()
        self.workers += [job_worker(self.folder / "workers.log", self.redis.url) for _ in range(2)]

    def submit(self, service: int = 0, **parameters: Any) -> str:
        answer = self.clients[service].post("/v1/stylize/jobs", params=parameters, files=FILES)
        assert answer.status_code == 202, answer.text
        return str(answer.headers["location"])

    def job(self, here: str, service: int = 0) -> Any:
        answer = self.clients[service].get(here)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def busy(self) -> WorkerProcess:
        """A worker with a job's process."""
        found: list[WorkerProcess] = []

        def look() -> bool:
            found[:] = [worker for worker in self.workers if worker.job_processes()]
            return bool(found)

        until(look, MINUTES)
        return found[0]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for worker in self.workers:
            worker.end(signal.SIGKILL)
        for service in self.services:
            service.stop()
        self.redis.stop()


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Services that were started without their Redis."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def fleet(lone: Fleet) -> Fleet:
    lone.begin()
    return lone


def test_without_its_redis_a_service_serves_all_but_jobs(lone: Fleet) -> None:
    client = lone.clients[0]
    answer = client.post("/v1/stylize/jobs", params=TWO, files=FILES)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
    assert int(answer.headers["retry-after"]) >= 1
    assert client.get(f"/v1/jobs/{'0' * 32}").json()["code"] == "storage_failed"
    assert client.post("/v1/classify", files={"image": CONTENT}).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert 'lynceus_job_store_up{queue="lynceus"} 0.0' in client.get("/metrics").text


def test_any_service_answers_for_any_job(fleet: Fleet) -> None:
    here = fleet.submit(0, size=64, steps=12, preview_every=1)
    with fleet.clients[1].stream("GET", f"{here}/events", timeout=MINUTES) as stream:
        seen = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert [state["step"] for state in seen] == sorted(state["step"] for state in seen)
    assert seen[-1]["state"] == "succeeded", seen[-1]
    assert seen[-1] == fleet.job(here, 0)
    images = [client.get(f"{here}/result", headers={"accept": "image/png"}) for client in fleet.clients]
    assert images[0].content == images[1].content
    assert Image.open(io.BytesIO(images[0].content)).size == (64, 44)
    assert fleet.clients[1].get(f"{here}/preview").status_code == 200
    for name in ("job_store_up", "job_workers"):  # counted at the next look
        until(lambda name=name: f'{name}{{queue="lynceus"}} 0.0' not in fleet.clients[0].get("/metrics").text)  # type: ignore[misc]


def test_a_worker_that_is_told_to_end_gives_its_job_back(fleet: Fleet) -> None:
    here = fleet.submit(0, **LONG)
    until(lambda: fleet.job(here)["step"] > 0, MINUTES)
    worker = fleet.busy()
    assert worker.end() == 0
    fleet.workers.remove(worker)
    until(lambda: fleet.job(here)["state"] == "running", MINUTES)  # the other one begins it
    assert fleet.clients[0].delete(here).json()["state"] == "cancelled"
