"""Jobs over a real Redis, with two services and two workers: if one dies, a job ends once, and says why."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import JobFinished, JobUnknown
from service.jobs.backend import BackendError
from service.jobs.job import Job, Reason, State
from service.jobs.queued import QueuedJobs, connect
from service.jobs.records import PREFIX, JobRecords
from service.telemetry.metrics import Metrics
from tests.service.jobs.redis_server import RedisServer, needs_redis
from tests.service.jobs.small import gone, new_job, until
from tests.service.jobs.worker_process import WorkerProcess

pytestmark = needs_redis
SLOW: dict[str, Any] = {"steps": 2000, "pause": 0.05}


def service(redis: RedisServer, **options: Any) -> QueuedJobs:
    """What a service has, begun."""
    connection, metrics = connect(redis.url), Metrics()
    jobs = QueuedJobs(connection, JobRecords(connection, max_waiting=1000), metrics, **options)
    jobs.start()
    return jobs


def quick_worker(redis: RedisServer, log: Path, *arguments: str) -> WorkerProcess:
    return WorkerProcess(log, "-m", "tests.service.jobs.quick_worker", redis.url, *arguments)


class Fleet:
    """A Redis, two services, two workers."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "workers.log"
        self.redis = RedisServer(folder / "redis")
        self.workers = [quick_worker(self.redis, self.log) for _ in range(2)]
        self.services = [service(self.redis) for _ in range(2)]

    def submit(self, at: int = 0, *, client: str = "me", **options: Any) -> str:
        options = {"steps": 2, "levels": 1} | options
        jobs = self.services[at]
        return jobs.submit(new_job(options, options["steps"], client=client)).id

    def get(self, job: str, at: int = 1) -> Job:
        return self.services[at].get(job)

    def ended(self, job: str) -> Job:
        while True:
            with contextlib.suppress(BackendError):  # a busy machine may be slow; a client asks again
                if (found := self.get(job)).final:
                    return found
            time.sleep(0.2)

    def running(self, job: str) -> WorkerProcess:
        """The worker that runs a job; no other one runs."""
        until(lambda: self.get(job).step > 0)
        (found,) = [worker for worker in self.workers if worker.job_processes()]
        return found

    def replace(self, worker: WorkerProcess, *arguments: str) -> None:
        self.workers[self.workers.index(worker)] = quick_worker(self.redis, self.log, *arguments)

    def close(self) -> None:
        for worker in self.workers:
            worker.end(signal.SIGKILL)
        for jobs in self.services:
            jobs.stop()
        self.redis.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.jobs.queued.LOOK", 1.0)
        fleet = Fleet(tmp_path_factory.mktemp("fleet"))
        yield fleet
        fleet.close()


def test_what_one_service_takes_another_one_answers_for(fleet: Fleet) -> None:
    job = fleet.submit(0, steps=3, pause=0.05)
    done = fleet.ended(job)
    assert (done.state, done.step, done.losses, done.client) == (State.SUCCEEDED, 3, {"style": 2}, "me")
    assert fleet.services[1].image(job, "result") == b"content"
    assert fleet.services[1].image(job, "preview") == b"style"
    with pytest.raises(JobFinished):
        fleet.services[1].cancel(job)


def test_a_cancelled_job_stops_whether_it_waits_or_runs(fleet: Fleet) -> None:
    running = [fleet.submit(0, **SLOW) for _ in range(2)]
    until(lambda: all(fleet.get(job).step > 0 for job in running))
    waiting = fleet.submit(0, **SLOW)
    assert fleet.services[1].cancel(waiting).state is State.CANCELLED
    processes = [pid for worker in fleet.workers for pid in worker.job_processes()]
    assert len(processes) == 2
    for job in running:
        assert fleet.services[1].cancel(job).state is State.CANCELLED
    until(lambda: all(gone(pid) for pid in processes))
    until(lambda: not any(fleet.get(job).busy for job in running))
    done = fleet.submit(0)
    assert fleet.ended(done).state is State.SUCCEEDED, "the workers live"


@pytest.mark.parametrize(
    ("ends", "reason"),
    [("raise", Reason.CRASHED), ("full", Reason.STORAGE), (int(signal.SIGSEGV), Reason.CRASHED)],
)
def test_a_job_that_fails_by_itself_is_not_begun_again(fleet: Fleet, ends: object, reason: Reason) -> None:
    job = fleet.submit(0, ends=ends)
    failed = fleet.ended(job)
    assert (failed.state, failed.reason, failed.step) == (State.FAILED, reason, 1)
    assert fleet.services[0]._records.attempt(job) == 1
    until(lambda: not fleet.get(job).busy)


def test_a_job_has_its_time(fleet: Fleet) -> None:
    short = service(fleet.redis, timeout=1.0)
    try:
        job = short.submit(new_job(SLOW, 2000)).id
        failed = fleet.ended(job)
        assert (failed.state, failed.reason) == (State.FAILED, Reason.TIMEOUT)
    finally:
        short.stop()


def test_a_killed_workers_job_is_begun_anew_and_ends(fleet: Fleet) -> None:
    job = fleet.submit(0, steps=60, pause=0.05)
    worker = fleet.running(job)
    (process,) = worker.job_processes()
    worker.end(signal.SIGKILL)
    until(lambda: gone(process))  # the kernel ends it with its worker
    done = fleet.ended(job)
    assert (done.state, done.step) == (State.SUCCEEDED, 60)
    assert fleet.services[0]._records.attempt(job) == 2
    fleet.replace(worker)


def test_a_worker_that_is_told_to_end_gives_its_job_back(fleet: Fleet) -> None:
    job = fleet.submit(0, **SLOW)
    for attempt in range(1, 5):  # oftener than a job is begun again whose worker dies
        worker = fleet.running(job)
        fleet.replace(worker)
        began = time.monotonic()
        assert worker.end() == 0
        assert time.monotonic() < began + 25, "before it would be taken for lost"
        until(lambda attempt=attempt: fleet.services[0]._records.attempt(job) > attempt)  # type: ignore[misc]
    fleet.services[0].cancel(job)
    until(lambda: not fleet.get(job).busy)


def test_a_job_whose_workers_die_again_and_again_fails(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.queued.RETRIES", 1)
    job = fleet.submit(0, **SLOW)
    for _ in range(2):
        worker = fleet.running(job)
        fleet.replace(worker)
        attempt = fleet.services[0]._records.attempt(job)
        worker.end(signal.SIGKILL)
        until(
            lambda attempt=attempt: fleet.get(job).final or fleet.services[0]._records.attempt(job) > attempt
        )  # type: ignore[misc]
    failed = fleet.ended(job)
    assert (failed.state, failed.reason) == (State.FAILED, Reason.RESTARTED)


def test_jobs_outlive_a_redis_that_is_killed(fleet: Fleet) -> None:
    running = fleet.submit(0, steps=100, pause=0.05)
    until(lambda: fleet.get(running).step > 0)
    waiting = [fleet.submit(0, pause=0.1) for _ in range(4)]
    fleet.redis.kill()
    with pytest.raises(BackendError):
        fleet.get(running)
    with pytest.raises(BackendError):
        fleet.submit(0)
    up = fleet.services[0]._metrics.registry.get_sample_value
    until(lambda: up("lynceus_job_store_up", {"queue": "lynceus"}) == 0)
    fleet.redis.start()
    for job in (running, *waiting):
        assert fleet.ended(job).state is State.SUCCEEDED
    assert fleet.services[0]._records.attempt(running) == 1, "its process has gone on"
    until(lambda: up("lynceus_job_store_up", {"queue": "lynceus"}) == 1)


def test_a_job_that_its_service_did_not_enqueue_is_found(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.queued.STRAY", 1.0)
    records = fleet.services[0]._records
    records.submit("stray", new_job({"steps": 1, "levels": 1}, 1))
    assert fleet.ended("stray").state is State.SUCCEEDED


def test_many_jobs_of_eight_clients_end_once_each(fleet: Fleet) -> None:
    ended: Counter[tuple[State, int]] = Counter()
    lock = threading.Lock()

    def client(number: int) -> None:
        jobs = [fleet.submit(number % 2, client=str(number)) for _ in range(8)]
        for job in jobs:
            found = fleet.ended(job)
            with lock:
                ended[found.state, fleet.services[0]._records.attempt(job)] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == {(State.SUCCEEDED, 1): 64}
    until(lambda: not fleet.redis.client.exists(f"{PREFIX}queued", f"{PREFIX}running"))


def test_a_worker_of_another_version_refuses_a_job_with_the_reason(fleet: Fleet) -> None:
    for worker in list(fleet.workers):
        worker.end()
        fleet.replace(worker, "9.9.9")
    job = fleet.submit(0)
    failed = fleet.ended(job)
    assert (failed.state, failed.reason) == (State.FAILED, Reason.VERSION)
    with pytest.raises(JobUnknown):
        fleet.services[0].image(job, "result")


def test_a_redis_that_cannot_be_reached_fails_no_start(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    redis.kill()
    jobs = service(redis)
    try:
        with pytest.raises(BackendError):
            jobs.check_room("me")
        redis.start()
        jobs.check_room("me")
    finally:
        jobs.stop()
        redis.stop()
