"""Jobs beyond one machine: kept in Redis, run by job workers (`service.jobs.worker`), known to every service.

RQ has the queue, the workers, their heartbeats and what becomes of a dead worker's jobs; the records
(`service.jobs.records`) say what clients see. Both are reconciled every few seconds by one of the services.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from typing import Any, Final

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry as Reconnect
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job as QueuedJob
from rq.job import JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker_registration import clean_worker_registry, get_keys

from service.jobs.backend import BackendError, ImageName
from service.jobs.job import Job, NewJob, Reason, State
from service.jobs.records import PREFIX, JobRecords, reached
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

QUEUE: Final = "lynceus"
RETRIES: Final = 2
"""How often a job is begun again whose worker died or lost Redis. What fails by itself would fail again."""

LATEST: Final = 60
"""Seconds that RQ keeps what it knows of a job that is over; the record is kept for longer."""

LOOK: Final = 5.0
"""Seconds between two looks at the jobs."""

STRAY: Final = 30.0
"""Seconds after which a waiting job that is in no queue is put there: what would have done it has died."""

WAIT: Final = 2.0
"""Seconds that a service waits for Redis; well below what a request waits for its jobs."""

RECONNECTS: Final = 40
"""How often a worker connects to Redis again, at most two seconds apart."""


def connect(url: str, *, persistent: bool = False) -> redis.Redis:
    """A client of Redis; it connects with its first command.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``.
        persistent: for a worker, which waits for a Redis that is started again; a service's request does not.
    """
    errors: list[Any] = [redis.ConnectionError, redis.TimeoutError]
    backoff, retries = (ExponentialBackoff(cap=2.0, base=0.1), RECONNECTS) if persistent else (NoBackoff(), 1)
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=WAIT,
        socket_timeout=WAIT,
        health_check_interval=15,
        retry=Reconnect(backoff, retries),
        retry_on_error=errors,
    )


class QueuedJobs:
    """A `Backend`.

    Args:
        connection: to Redis.
        records: of the jobs, on that connection.
        metrics: of the worker.
        timeout: seconds that a job may run.
    """

    def __init__(
        self, connection: redis.Redis, records: JobRecords, metrics: Metrics, *, timeout: float = 3600.0
    ) -> None:
        self._redis, self._records, self._metrics = connection, records, metrics
        self._timeout = max(1, round(timeout))
        self.queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)
        self._workers = 0
        self._reachable = True
        self._trusted = 0.0
        self._strays: dict[str, float] = {}

    def start(self) -> None:
        self._look()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(2 * WAIT + 1)
        self._redis.close()

    def check_room(self, client: str) -> None:
        self._records.check_room(client, self._workers)

    def submit(self, new: NewJob) -> Job:
        job = uuid.uuid4().hex
        self._records.submit(job, new)
        with contextlib.suppress(BackendError):  # it is accepted: a later look puts it into the queue
            self._enqueue(job)
        return self._records.get(job)

    def get(self, job: str) -> Job:
        return self._records.get(job)

    def cancel(self, job: str) -> Job:
        found = self._records.cancel(job)
        with reached(), contextlib.suppress(NoSuchJobError, InvalidJobOperation):
            if found.busy:
                send_stop_job_command(self._redis, job, serializer=JSONSerializer)
            else:
                self._of_queue(job).delete()
        return found

    def image(self, job: str, name: ImageName) -> bytes:
        return self._records.image(job, name)

    def _enqueue(self, job: str) -> None:
        with reached():
            self.queue.enqueue_call(
                "job",  # workers run one function, whatever is named here
                (job,),
                job_id=job,
                timeout=self._timeout,
                result_ttl=LATEST,
                failure_ttl=LATEST,
                retry=Retry(RETRIES, enqueue_at_front=True),
            )

    def _of_queue(self, job: str) -> QueuedJob:
        return QueuedJob.fetch(job, connection=self._redis, serializer=JSONSerializer)

    def _serve(self) -> None:
        while not self._stopping.wait(LOOK):
            self._look()

    def _look(self) -> None:
        """Brings records and queue together, and counts; logs an outage once."""
        try:
            with reached():
                self._tick()
            reachable = True
        except BackendError as exc:
            reachable = False
            if self._reachable:
                logger.error("jobs cannot be reached: %s", exc)
        except Exception:  # the next look may succeed, and without any nothing would
            logger.exception("the jobs could not be looked at")
            reachable = True
        if reachable and not self._reachable:
            logger.info("jobs can be reached again")
        if not reachable:
            self._trusted = time.monotonic() + 3 * LOOK
        self._reachable = reachable
        self._metrics.job_store_up.labels(QUEUE).set(reachable)

    def _tick(self) -> None:
        clean_worker_registry(self.queue)
        self._workers = len(get_keys(self.queue))
        self._metrics.job_workers.labels(QUEUE).set(self._workers)
        # After an outage the workers' heartbeats are old too: they get time for new ones.
        rested = time.monotonic() >= self._trusted
        if rested and self._redis.set(f"{PREFIX}look", "1", nx=True, px=int(LOOK * 800)):
            StartedJobRegistry(queue=self.queue).cleanup()
            self._reconcile()
        for state, jobs in self._records.unfinished().items():
            self._metrics.jobs.labels(state).set(len(jobs))

    def _reconcile(self) -> None:
        unfinished = self._records.unfinished()
        for job in unfinished[State.RUNNING]:
            attempt = self._records.attempt(job)  # before its status, which another attempt may change
            status = self._status(job)
            if status is JobStatus.QUEUED:
                self._records.requeue(job, attempt)  # its worker is gone, and RQ begins it again
            elif status is not JobStatus.STARTED:
                self._records.finish(job, State.FAILED, Reason.RESTARTED, attempt=attempt)
        begun = set(StartedJobRegistry(queue=self.queue).get_job_ids(cleanup=False))
        waiting = set(self.queue.get_job_ids()) | begun
        strays = unfinished[State.QUEUED] - waiting
        now = time.monotonic()
        self._strays = {job: self._strays.get(job, now) for job in strays}
        for job, since in self._strays.items():
            if now > since + STRAY:
                logger.warning("job %s was in no queue: it is put there", job)
                self.queue.intermediate_queue.remove(job)
                self._enqueue(job)

    def _status(self, job: str) -> JobStatus | None:
        try:
            return self._of_queue(job).get_status(refresh=False)
        except NoSuchJobError:
            return None


def make_queued(settings: Settings, metrics: Metrics) -> QueuedJobs:
    """The jobs of the Redis that `settings.jobs` names; whether it can be reached does not matter yet."""
    connection = connect(settings.jobs)
    records = JobRecords(
        connection, max_waiting=settings.max_waiting_jobs, expiry=settings.job_expiry_seconds
    )
    return QueuedJobs(connection, records, metrics, timeout=settings.job_timeout_seconds)
