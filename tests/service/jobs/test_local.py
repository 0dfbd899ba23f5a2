"""Who does the jobs: real processes that end when they should, whatever becomes of their worker."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.errors import WeightsError
from models.pipeline import WeightsFile
from service.jobs.eta import EtaEstimator
from service.jobs.job import Files, Job, Reason, State
from service.jobs.liveness import WorkerRegistry
from service.jobs.local import JobProcess, LocalJobs
from service.jobs.process import run
from service.jobs.store import JobStore
from service.telemetry.metrics import Metrics
from tests.paths import ROOT
from tests.service.jobs.small import CONTENT, STYLE, gone, new_job, random_network, until

LOST = Files(WeightsFile(Path("lost.pth"), "0" * 64))
OPTIONS = {"steps": 4, "size": 64, "levels": 2, "preview_every": 1}

WORKER = """
import sys
from pathlib import Path
from service.jobs.store import JobStore
from service.telemetry.metrics import Metrics
from models.pipeline import WeightsFile
from service.jobs.local import LocalJobs
from service.jobs.job import Files
from service.jobs.liveness import WorkerRegistry
folder = Path(sys.argv[1])
registry = WorkerRegistry(folder / "workers")
files = Files(WeightsFile(Path("lost.pth"), ""))
scheduler = LocalJobs(JobStore(folder), registry, files, Metrics())
scheduler.start()
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "state")
    store.open()
    yield store
    store.close()


def scheduler(store: JobStore, files: Files = LOST, **options: Any) -> LocalJobs:
    """A worker's own, on a store that it opens and closes itself."""
    return LocalJobs(
        JobStore(store.folder), WorkerRegistry(store.folder / "workers"), files, Metrics(), **options
    )


def submit(store: JobStore, steps: int = 4) -> Job:
    return store.submit(new_job({**OPTIONS, "steps": steps}, steps, CONTENT, STYLE))


def process_of(scheduler: LocalJobs, job: Job) -> int:
    """The id of the process that is at work on a job, once there is one."""
    until(lambda: job.id in scheduler._running)
    return scheduler._running[job.id]._process.pid


def test_the_end_of_a_worker_ends_its_jobs(store: JobStore) -> None:
    one = scheduler(store)
    one.start()
    job = submit(store)
    one._wake.set()
    pid = process_of(one, job)
    one.stop()
    assert gone(pid)
    found = store.get(job.id)
    assert (found.state, found.reason, found.busy) == (State.FAILED, Reason.RESTARTED, False)
    assert [path.name for path in (store.folder / "workers").iterdir()] == ["lock"]


def test_a_process_that_dies_before_it_has_read_its_order(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when SIGTERM comes to worker and job at once."""

    class Dead(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(["/bin/false"], **options)
            self.wait()

    job = store.submit(new_job(OPTIONS, 4, CONTENT, STYLE))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Dead)
        process = JobProcess(job, store.folder, LOST, 1)
    assert list(process.steps()) == []
    assert process.wait() == 1


def test_a_job_for_which_there_is_no_thread_has_failed_and_the_next_is_begun(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scheduler(store)
    one.start()

    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", Refused)
        job = submit(store)
        one._wake.set()
        until(lambda: store.get(job.id).state is State.FAILED)
    assert store.get(job.id).reason is Reason.CRASHED
    other = submit(store)
    one._wake.set()
    until(lambda: store.get(other.id).state is State.FAILED)  # LOST has no weights
    one.stop()


def test_a_killed_worker_takes_its_process_along_and_the_others_go_on(store: JobStore) -> None:
    command = [sys.executable, "-c", WORKER, str(store.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"started\n"
        job = submit(store)
        until(lambda: store.get(job.id).state is State.RUNNING)

        def children() -> list[int]:
            found = Path(f"/proc/{worker.pid}/task").glob("*/children")
            return [int(child) for path in found for child in path.read_text().split()]

        until(lambda: bool(children()))  # it is claimed before it has one
        (pid,) = children()
        other = scheduler(store)
        other.start()  # beside a living worker it restarts nothing
        assert store.get(job.id).state is State.RUNNING
        waiting = submit(store)
        worker.kill()
        worker.wait()
        until(lambda: gone(pid))
        other._swept = 0.0  # as if it were time to look for the dead
        until(lambda: store.get(job.id).final)
        assert store.get(job.id).reason is Reason.RESTARTED
        until(lambda: store.get(waiting.id).state is State.RUNNING)
        other.stop()


def test_after_a_restart_a_known_job_has_failed(store: JobStore) -> None:
    job = submit(store)
    again = scheduler(store)
    again.start()  # no worker is alive
    assert store.get(job.id).reason is Reason.RESTARTED
    again.stop()


def test_a_job_that_takes_too_long_or_is_killed_has_failed(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    slow = scheduler(store, timeout=0.0)
    slow.start()
    job = submit(store)
    slow._wake.set()
    until(lambda: store.get(job.id).final)
    assert store.get(job.id).reason is Reason.TIMEOUT
    slow._timeout = 1000.0
    crashed = submit(store)
    slow._wake.set()
    os.kill(process_of(slow, crashed), signal.SIGKILL)
    until(lambda: store.get(crashed.id).final)
    assert store.get(crashed.id).reason is Reason.CRASHED
    ended_with_the_worker = submit(store)
    slow._wake.set()
    os.kill(process_of(slow, ended_with_the_worker), signal.SIGTERM)
    until(lambda: store.get(ended_with_the_worker.id).final)
    assert store.get(ended_with_the_worker.id).reason is Reason.RESTARTED
    until(lambda: not slow._running)
    ended = slow._metrics.registry.get_sample_value("lynceus_jobs_ended_total", {"outcome": "failed"})
    assert ended == 3
    slow.stop()


def test_a_disk_that_fails_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    folder.write_text("a file where the folder should be")
    store = JobStore(folder)
    one = LocalJobs(store, WorkerRegistry(folder / "workers"), LOST, Metrics(), accepting=lambda: False)
    one.start()
    assert "cannot be stored" in caplog.text
    folder.unlink()
    one._wake.set()
    until(lambda: one._entered)
    job = store.submit(new_job(OPTIONS, 4, CONTENT, STYLE))
    assert store.get(job.id).state is State.QUEUED
    one.stop()
    assert caplog.text.count("cannot be stored") == 1


def test_a_job_that_is_not_in_the_store_any_more_frees_its_place(store: JobStore) -> None:
    one = scheduler(store)
    one.start()
    job = submit(store)
    pid = process_of(one, job)
    (file,) = store.folder.glob("jobs-*.sqlite")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("DELETE FROM jobs")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(lambda: job.id not in one._running)
    one.stop()


def order(store: JobStore, folder: Path, network: WeightsFile) -> dict[str, Any]:
    for name, data in (("content.png", CONTENT), ("style.png", STYLE)):
        (folder / name).write_bytes(data)
    return Files(network).order(submit(store), folder, 1)


def test_the_work_tells_of_each_step_and_leaves_pictures(store: JobStore, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    run(order(store, tmp_path, random_network(tmp_path)), told.append)
    assert [said["step"] for said in told] == [1, 2, 3, 4]
    assert all(len(said["losses"]) == 4 and said["preview"] for said in told)
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("*.new")) == []


def test_a_network_that_has_changed_is_refused(store: JobStore, tmp_path: Path) -> None:
    network = random_network(tmp_path)
    with pytest.raises(WeightsError, match="has changed"):
        run(order(store, tmp_path, WeightsFile(network.path, "0" * 64)), lambda said: None)


def test_the_remaining_time_knows_that_coarse_steps_are_quick() -> None:
    remaining = EtaEstimator({"levels": 2}, 8)  # 4 steps on a quarter of the pixels, then 4
    assert remaining.after(1, 100.0) is None
    assert remaining.after(2, 101.0) == pytest.approx(2 * 1 + 4 * 4)
    assert remaining.after(4, 103.0) == pytest.approx(4 * 4)
    assert remaining.after(6, 111.0) == pytest.approx(2 * 4)
    assert remaining.after(8, 119.0) == 0
