"""Jobs on this machine: kept in the state directory, run by child processes of the workers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import JobUnknown
from service.jobs.backend import BackendError
from service.jobs.job import Files, Job, NewJob
from service.jobs.liveness import WorkerRegistry
from service.jobs.scheduler import JobScheduler
from service.jobs.store import PREVIEW, RESULT, JobStore
from service.settings import Settings
from service.telemetry.metrics import Metrics


class LocalJobs:
    """A `Backend`.

    Args:
        store: of the jobs, shared by the workers; opened by the scheduler.
        scheduler: this worker's.
    """

    def __init__(self, store: JobStore, scheduler: JobScheduler) -> None:
        self._store, self._scheduler = store, scheduler

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        self._scheduler.stop()

    def check_room(self, client: str) -> None:
        with _disk():
            self._store.check_room(client)

    def submit(self, new: NewJob) -> Job:
        with _disk():
            job = self._store.submit(new)
        self._scheduler.wake()
        return job

    def get(self, job: str) -> Job:
        with _disk():
            return self._store.get(job)

    def cancel(self, job: str) -> Job:
        with _disk():
            found = self._store.cancel(job)
        self._scheduler.wake()
        return found

    def preview(self, job: str) -> bytes:
        return self._image(job, PREVIEW)

    def result(self, job: str) -> bytes:
        return self._image(job, RESULT)

    def _image(self, job: str, name: str) -> bytes:
        with _disk():
            try:
                return self._store.path(job, name).read_bytes()
            except FileNotFoundError:
                raise JobUnknown("the job has expired") from None


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise BackendError(str(exc)) from exc


def make_local(settings: Settings, files: Files, metrics: Metrics, draining: Callable[[], bool]) -> LocalJobs:
    """Jobs of the state directory.

    Args:
        settings: bounds and folder.
        files: of the networks.
        metrics: of the worker.
        draining: whether the worker begins no more jobs.
    """
    store = JobStore(
        settings.state_folder,
        max_jobs=settings.max_jobs,
        max_waiting=settings.max_waiting_jobs,
        expiry=settings.job_expiry_seconds,
    )
    scheduler = JobScheduler(
        store,
        WorkerRegistry(settings.state_folder / "workers"),
        files,
        metrics,
        threads=settings.job_threads,
        timeout=settings.job_timeout_seconds,
        accepting=lambda: not draining(),
    )
    return LocalJobs(store, scheduler)
