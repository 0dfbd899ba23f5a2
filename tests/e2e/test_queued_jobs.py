"""Jobs beyond one machine: a real Redis, two services and two job workers as processes, and their deaths."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service import __version__
from service.jobs.records import PREFIX
from tests.server import Server
from tests.service.jobs.redis_server import RedisServer, needs_redis
from tests.service.jobs.small import CONTENT, STYLE, gone, until
from tests.service.jobs.worker_process import WorkerProcess

pytestmark = [pytest.mark.e2e, needs_redis]
FILES = {"content": CONTENT, "style": STYLE}
LONG = {"size": 256, "steps": 1000}
TWO = {"size": 64, "steps": 2, "levels": 1}
MINUTES = 5 * 60.0


def job_worker(log: Path, redis: str, *, program: str = "", **settings: object) -> WorkerProcess:
    """`python -m service.jobs.worker`, or a program in its place, with a Redis."""
    full = {key: value for key, value in os.environ.items() if not key.startswith("LYNCEUS_")}
    full |= {"LYNCEUS_JOBS": redis, "LYNCEUS_JOB_METRICS_PORT": "0"}
    full |= {f"LYNCEUS_{key.upper()}": str(value) for key, value in settings.items()}
    return WorkerProcess(log, *(["-c", program] if program else ["-m", "service.jobs.worker"]), env=full)


class Fleet:
    """A Redis, two services and two job workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        options: dict[str, Any] = {"models": "lenet5", "workers": 1, "threads": 1, "drain_seconds": 0}
        options |= {"jobs": self.redis.url, "max_waiting_jobs": 1000, "grpc_port": 0}
        self.services = [Server(folder / f"service-{number}.log", **options) for number in range(2)]
        self.workers = [self.worker() for _ in range(2)]
        for service in self.services:
            service.wait(MINUTES)
        self.clients = [httpx.Client(base_url=service.url, timeout=60) for service in self.services]

    def worker(self, **options: Any) -> WorkerProcess:
        return job_worker(self.folder / "workers.log", self.redis.url, **options)

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
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    yield fleet
    fleet.close()


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


def test_a_cancelled_job_has_stopped_whether_it_waits_or_runs(fleet: Fleet) -> None:
    running = [fleet.submit(0, **LONG) for _ in range(2)]
    until(lambda: all(fleet.job(here)["state"] == "running" for here in running), MINUTES)
    waiting = fleet.submit(0, **LONG)
    assert fleet.clients[1].delete(waiting).json()["state"] == "cancelled"
    processes = [pid for worker in fleet.workers for pid in worker.job_processes()]
    assert len(processes) == 2
    for here in running:
        assert fleet.clients[1].delete(here).json()["state"] == "cancelled"
    until(lambda: all(gone(pid) for pid in processes), 30)
    for here in (*running, waiting):
        assert fleet.clients[0].delete(here).json()["code"] == "job_finished"
        assert fleet.job(here)["state"] == "cancelled"


def test_a_killed_workers_job_is_run_to_its_end_by_another(fleet: Fleet) -> None:
    here = fleet.submit(0, size=64, steps=150, preview_every=1)
    until(lambda: fleet.job(here)["step"] > 1, MINUTES)
    worker = fleet.busy()
    (process,) = worker.job_processes()
    worker.end(signal.SIGKILL)
    until(lambda: gone(process), 30)  # the kernel ends it with its worker
    until(lambda: bool(fleet.job(here, 1)["finished_at"]), MINUTES)
    ended = fleet.job(here)
    assert (ended["state"], ended["step"]) == ("succeeded", 150)
    fleet.workers.remove(worker)
    fleet.workers.append(fleet.worker())


def test_a_worker_that_is_told_to_end_gives_its_job_back(fleet: Fleet) -> None:
    here = fleet.submit(0, **LONG)
    until(lambda: fleet.job(here)["step"] > 0, MINUTES)
    worker = fleet.busy()
    assert worker.end() == 0
    fleet.workers.remove(worker)
    until(lambda: fleet.job(here)["state"] == "running", MINUTES)  # the other one begins it
    fleet.workers.append(fleet.worker())
    assert fleet.clients[0].delete(here).json()["state"] == "cancelled"


def test_jobs_outlive_a_redis_that_is_killed(fleet: Fleet) -> None:
    running, waiting = fleet.submit(0, size=64, steps=400), [fleet.submit(1, **TWO) for _ in range(3)]
    until(lambda: fleet.job(running)["step"] > 1, MINUTES)
    fleet.redis.kill()
    refused = fleet.clients[0].post("/v1/stylize/jobs", params=TWO, files=FILES)
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_failed")
    assert int(refused.headers["retry-after"]) >= 1
    assert fleet.clients[0].get(running).json()["code"] == "storage_failed"
    assert fleet.clients[0].get("/readyz").status_code == 200
    fleet.redis.start()
    for here in (running, *waiting):
        until(lambda here=here: bool(fleet.job(here, 1)["finished_at"]), MINUTES)  # type: ignore[misc]
        assert fleet.job(here)["state"] == "succeeded"


def test_jobs_of_eight_clients_end_once_each(fleet: Fleet) -> None:
    """One of each, for each computes; tests/service/jobs/test_queued.py has two hundred."""
    ended: Counter[str] = Counter()
    failures: list[BaseException] = []

    def client(number: int) -> None:
        try:
            here = fleet.submit(number % 2, **TWO)
            until(lambda: bool(fleet.job(here, (number + 1) % 2)["finished_at"]), 2 * MINUTES)
            ended[fleet.job(here)["state"]] += 1
            image = fleet.clients[number % 2].get(f"{here}/result")
            assert Image.open(io.BytesIO(image.content)).size == (64, 44)
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert ended == {"succeeded": 8}
    assert [fleet.redis.client.scard(f"{PREFIX}{name}") for name in ("queued", "running")] == [0, 0]
    text = fleet.clients[0].get("/metrics").text
    assert 'lynceus_job_store_up{queue="lynceus"} 1.0' in text
    assert 'lynceus_job_workers{queue="lynceus"} ' in text


OTHER_VERSION = """
import sys, service
service.__version__ = "9.9.9"
from service.jobs.worker import main
sys.exit(main())
"""


def test_a_worker_of_another_version_refuses_the_job_with_the_reason(fleet: Fleet) -> None:
    for worker in fleet.workers:
        worker.end()
    other = fleet.worker(program=OTHER_VERSION)
    fleet.workers = [other]
    here = fleet.submit(0, **TWO)
    until(lambda: bool(fleet.job(here)["finished_at"]), MINUTES)
    failed = fleet.job(here)
    assert (failed["state"], failed["reason"]) == ("failed", "version"), __version__
    other.end()
    fleet.workers = [fleet.worker() for _ in range(2)]


def test_a_job_is_its_keys_alone(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    options: dict[str, Any] = {
        "models": "lenet5",
        "workers": 1,
        "threads": 1,
        "jobs": redis.url,
        "grpc_port": 0,
    }
    server = Server(tmp_path / "log", **options, api_keys="one-key,another-key")
    try:
        server.wait(MINUTES)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            owner, other = ({"authorization": f"Bearer {key}"} for key in ("one-key", "another-key"))
            made = client.post("/v1/stylize/jobs", params=TWO, files=FILES, headers=owner)
            here = made.headers["location"]
            for path in (here, f"{here}/events", f"{here}/preview", f"{here}/result"):
                assert client.get(path, headers=other).status_code == 404, path
            assert client.delete(here, headers=other).status_code == 404
            assert client.get(here).status_code == 401
            assert client.get(here, headers=owner).json()["state"] == "queued"
            assert client.delete(here, headers=owner).json()["state"] == "cancelled"
    finally:
        server.stop()
        redis.stop()


def test_without_its_redis_a_service_starts_and_serves_all_but_jobs(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    redis.kill()
    server = Server(tmp_path / "log", models="lenet5", workers=1, threads=1, jobs=redis.url, grpc_port=0)
    try:
        server.wait(MINUTES)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            answer = client.post("/v1/stylize/jobs", params=TWO, files=FILES)
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
            assert int(answer.headers["retry-after"]) >= 1
            assert client.get(f"/v1/jobs/{'0' * 32}").json()["code"] == "storage_failed"
            assert client.post("/v1/classify", files={"image": CONTENT}).status_code == 200
            assert client.get("/readyz").status_code == 200
            assert 'lynceus_job_store_up{queue="lynceus"} 0.0' in client.get("/metrics").text
            redis.start()
            assert client.post("/v1/stylize/jobs", params=TWO, files=FILES).status_code == 202
            until(lambda: 'lynceus_job_store_up{queue="lynceus"} 1.0' in client.get("/metrics").text, 60)
    finally:
        server.stop()
        redis.stop()
