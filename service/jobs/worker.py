"""A job worker: runs the jobs of all services that share a Redis, one at a time.

    LYNCEUS_JOBS=redis://... python -m service.jobs.worker

An RQ worker forks a process for each job, from one that has loaded torch already. That process ends with its
job, so its memory is given back; it is killed when its job is cancelled, and by the kernel when its worker
dies.
SIGTERM ends the worker at once, and its job is begun again by another one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from prometheus_client import start_http_server
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException
from rq.utils import now

from models.errors import ModelError
from models.pipeline import WeightsFile
from models.weights import Store, sha256_of, standard_catalogue
from service import __version__
from service.engine.installed import has_torch
from service.errors import JobUnknown
from service.jobs.backend import BackendError
from service.jobs.eta import EtaEstimator
from service.jobs.job import IMAGES, Files, Reason, State
from service.jobs.process import end_first, run
from service.jobs.queued import QUEUE, connect
from service.jobs.records import JobRecords
from service.settings import Settings, SettingsError, load
from service.telemetry.metrics import Metrics
from service.telemetry.oom import oom_kills

logger = logging.getLogger(__name__)

NETWORK: Final = "efficientnet-lite0"
"""The catalogue's entry whose features the costs compare."""

HEARTBEAT: Final = 5
"""Seconds between two heartbeats of a job that runs."""

LOST: Final = 25
"""Seconds after its last heartbeat that a job is taken for lost."""

IDLE: Final = 30
"""Seconds between two heartbeats of a worker that waits; it is taken for gone a minute later."""

PDEATHSIG: Final = 1


class Unwanted(Exception):
    """The job was cancelled, or is another worker's by now."""


class JobRunner:
    """Runs one job, in a process of its own.

    Args:
        records: of the jobs.
        files: of the networks.
        threads: of one job.
    """

    def __init__(self, records: JobRecords, files: Files, threads: int = 1) -> None:
        self._records, self._files, self._threads = records, files, threads

    def __call__(self, job: str) -> None:
        """Runs a job to its end, in whatever state that is.

        Raises:
            BackendError: Redis could not be reached; the job is to be begun again.
        """
        attempt = self._records.begin(job)
        if attempt is None:
            return
        state, reason, result = State.FAILED, Reason.CRASHED, b""
        try:
            result = self._made(job, attempt)
            state = State.SUCCEEDED
        except (Unwanted, JobUnknown):
            self._records.finish(job, None, attempt=attempt)
            return
        except JobTimeoutException:
            reason = Reason.TIMEOUT
        except MemoryError:
            reason = Reason.OUT_OF_MEMORY
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                reason = Reason.STORAGE
            logger.exception("job %s", job)
        except BackendError:
            raise
        except Exception:
            logger.exception("job %s", job)
        why = reason if state is State.FAILED else None
        self._records.finish(job, state, why, attempt=attempt, result=result)

    def _made(self, job: str, attempt: int) -> bytes:
        found = self._records.get(job)
        remaining = EtaEstimator(found.options, found.steps)
        with TemporaryDirectory(prefix="lynceus-job-") as name:
            folder = Path(name)
            for role in IMAGES[found.kind]:
                (folder / f"{role}.png").write_bytes(self._records.image(job, role))

            def tell(said: dict[str, Any]) -> None:
                preview = (folder / "preview.png").read_bytes() if said["preview"] else b""
                eta = remaining.after(said["step"], time.monotonic())
                if not self._records.progress(job, attempt, said["step"], said["losses"], eta, preview):
                    raise Unwanted

            run(self._files.order(found, folder, self._threads), tell)
            return (folder / "result.png").read_bytes()


class JobWorker(Worker):
    """An RQ worker of jobs.

    Args:
        connection: to Redis.
        records: of the jobs.
        run: what runs a job, given its id, in a forked process.
        metrics: of this worker.

    Attributes:
        leaving: it was told to end.
    """

    def __init__(self, connection: Redis, records: JobRecords, run: Any, metrics: Metrics) -> None:
        class Bound(QueuedJob):
            """Whatever function Redis names, this one is run."""

            @property
            def func(self) -> Any:
                return run

        self._records, self._metrics = records, metrics
        self.leaving = False
        self._oom_kills = 0
        super().__init__(
            [Queue(QUEUE, connection=connection, serializer=JSONSerializer, job_class=Bound)],
            connection=connection,
            job_class=Bound,
            serializer=JSONSerializer,
            worker_ttl=IDLE,
            job_monitoring_interval=HEARTBEAT,
            log_job_description=False,
            work_horse_killed_handler=self._killed,
        )
        self.log_result_lifespan = False

    def get_heartbeat_ttl(self, job: QueuedJob, working_time: float = 0.0) -> int:
        return LOST

    def maintain_heartbeats(self, job: QueuedJob, execution: Execution) -> None:
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as exc:  # the job goes on; if it is taken for lost, its progress will tell
            logger.warning("no heartbeat: %s", exc)

    def run_maintenance_tasks(self) -> None:
        """The services do it (`QueuedJobs`), which are there even if every worker is busy."""
        self.last_cleaned_at = now()  # type: ignore[assignment]

    def handle_warm_shutdown_request(self) -> None:
        self.leaving = True
        self.kill_horse()

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """The process alone: its group is this one's until it has made its own."""
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, sig)

    def fork_work_horse(self, job: QueuedJob, queue: Queue) -> None:
        super().fork_work_horse(job, queue)
        if self.leaving:  # the signal came before there was a process to kill
            self.kill_horse()

    def main_work_horse(self, job: QueuedJob, queue: Queue) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux; elsewhere it ends with its next step
            ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
        os.umask(0o077)
        end_first()
        super().main_work_horse(job, queue)

    def execute_job(self, job: QueuedJob, queue: Queue) -> None:
        began, self._oom_kills = time.monotonic(), oom_kills()
        super().execute_job(job, queue)
        with contextlib.suppress(JobUnknown):
            found = self._records.get(job.id)
            if found.final:
                self._records.finish(job.id, None)
                self._metrics.jobs_ended.labels(found.state).inc()
                self._metrics.job_seconds.labels(found.state).observe(time.monotonic() - began)
                why = f": {found.reason}" if found.reason else ""
                logger.info("job %s %s at step %d%s", job.id, found.state, found.step, why)

    def _killed(self, job: QueuedJob, pid: int, status: int, usage: Any) -> None:
        """A job's process has died, and not by a cancellation; RQ begins it again if it has retries left."""
        if self.leaving:
            self._records.requeue(job.id, self._records.attempt(job.id))
            job.retries_left = (job.retries_left or 0) + 1
            return
        if os.WIFEXITED(status):  # it could not reach Redis: RQ and the services know what to do
            return
        number = os.WTERMSIG(status)
        ran = (now() - job.started_at).total_seconds() if job.started_at else 0.0
        reason = Reason.CRASHED
        if number == signal.SIGKILL and oom_kills() > self._oom_kills:
            reason = Reason.OUT_OF_MEMORY
        elif job.timeout and ran > job.timeout:
            reason = Reason.TIMEOUT
        logger.error("the process of job %s was ended by signal %d", job.id, number)
        self._records.finish(job.id, State.FAILED, reason)
        job.retries_left = 0


def network(settings: Settings) -> WeightsFile:
    """The network's file.

    Raises:
        ModelError: it is missing, or wrong.
    """
    entry = standard_catalogue(settings.catalogue)[NETWORK]
    path = Store(settings.weights_dir).files(entry)["weights"]
    return WeightsFile(path, sha256_of(path))


def main() -> int:
    """Runs a worker until SIGTERM; its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load()
        if settings.jobs == "local":
            raise SettingsError("LYNCEUS_JOBS='local': name the Redis that the services use, redis://...")
        if not has_torch():
            raise SettingsError("jobs take torch, which is not installed here: see docs/containers.md")
        files = Files(network(settings), settings.catalogue, settings.weights_dir)
    except (SettingsError, ModelError) as error:
        logger.error("this worker cannot start: %s", error)
        return os.EX_CONFIG
    logging.getLogger("service").setLevel(settings.log_level)
    import models.classification.efficientnet  # torch, before the processes are forked
    import models.style.optimise  # noqa: F401

    connection = connect(settings.jobs, persistent=True)
    records = JobRecords(
        connection, max_waiting=settings.max_waiting_jobs, expiry=settings.job_expiry_seconds
    )
    metrics = Metrics()
    try:
        worker = JobWorker(connection, records, JobRunner(records, files, settings.job_threads), metrics)
        if settings.job_metrics_port:
            start_http_server(settings.job_metrics_port, registry=metrics.registry)
        logger.info("version %s, jobs of %s", __version__, QUEUE)
        worker.work(logging_level="WARNING")
    except RedisError as error:
        logger.error("Redis: %s", error)
        return os.EX_UNAVAILABLE
    return os.EX_OK if worker.leaving else os.EX_TEMPFAIL


if __name__ == "__main__":
    sys.exit(main())
