"""Jobs on this machine: kept in the state directory; in each worker a thread takes waiting ones and starts a
process for each.

A process, since its work can be ended at any moment, holds no interpreter lock of the worker's, and may have
another priority. It has a session of its own: where the kernel groups tasks by session (sched(7), autogroup),
it would else be weighed with its worker against the others. Besides, a Ctrl-C reaches the server alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from service.errors import JobUnknown
from service.jobs.backend import BackendError, ImageName
from service.jobs.eta import EtaEstimator
from service.jobs.job import Files, Job, NewJob, Reason, State
from service.jobs.liveness import WorkerRegistry
from service.jobs.process import NO_ROOM
from service.jobs.store import JobStore
from service.telemetry.metrics import Metrics
from service.telemetry.oom import oom_kills

logger = logging.getLogger(__name__)

IDLE, BUSY = 1.0, 0.2
"""Seconds between two looks at the store: other workers' new jobs, and other workers' cancellations."""

SWEEP = 10.0
"""Seconds between two looks for expired jobs and dead workers."""

GONE = 30.0
"""Seconds that a killed process is waited for: its end takes CPU time too, of which it gets little."""

FAILURES = (sqlite3.Error, OSError)


class LocalJobs:
    """A `Backend`: one worker's.

    Args:
        store: of the jobs, shared by the workers; opened by `start`.
        registry: of the workers.
        files: of the networks.
        metrics: where the jobs are counted.
        threads: of one job.
        timeout: seconds that a job may run.
        accepting: whether jobs are begun; not while the worker drains.
    """

    def __init__(
        self,
        store: JobStore,
        registry: WorkerRegistry,
        files: Files,
        metrics: Metrics,
        *,
        threads: int = 1,
        timeout: float = 3600.0,
        accepting: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store, self._registry, self._files, self._metrics = store, registry, files, metrics
        self._threads, self._timeout, self._accepting = threads, timeout, accepting
        self._running: dict[str, JobProcess] = {}
        self._entered = self._troubled = self._stopping = False
        self._swept = 0.0
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)

    def start(self) -> None:
        """Opens the store, removes what a former server left, and takes jobs from now on.

        A disk that fails is logged and tried again, as later: it must not end the worker.
        """
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """Ends the running jobs' processes; the jobs have failed, `restarted`. Waits until all are gone."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        for process in list(self._running.values()):
            process.kill()
            process.thread.join(GONE)
        try:
            self._registry.leave()
        except OSError:
            logger.exception("the worker's lock could not be removed")
        self._store.close()

    def check_room(self, client: str) -> None:
        with _disk():
            self._store.check_room(client)

    def submit(self, new: NewJob) -> Job:
        with _disk():
            job = self._store.submit(new)
        self._wake.set()
        return job

    def get(self, job: str) -> Job:
        with _disk():
            return self._store.get(job)

    def cancel(self, job: str) -> Job:
        with _disk():
            found = self._store.cancel(job)
        self._wake.set()
        return found

    def image(self, job: str, name: ImageName) -> bytes:
        with _disk():
            try:
                return self._store.path(job, f"{name}.png").read_bytes()
            except FileNotFoundError:
                raise JobUnknown("the job has expired") from None

    def _serve(self) -> None:
        while not self._stopping:
            self._wake.wait(BUSY if self._running else IDLE)
            self._wake.clear()
            self._look()

    def _look(self) -> None:
        try:
            self._tick()
            self._troubled = False
        except FAILURES:
            if not self._troubled:  # a line for each outage, not for each look
                logger.exception("jobs cannot be stored in %s", self._store.folder)
            self._troubled = True

    def _tick(self) -> None:
        store = self._store
        if self._entered and store.lost:
            logger.error("the folder of jobs %s was removed or replaced: it is entered anew", store.folder)
            store.close()
            self._registry.leave()
            self._entered = False
        if not self._entered:
            store.open()
            self._registry.enter(store.restart)
            self._entered = True
        running = dict(self._running)
        wanted = store.wanted(self._registry.name)
        for name in wanted - running.keys():  # begun when the disk failed
            store.release(name, self._registry.name, State.FAILED, Reason.CRASHED)
        for name, process in running.items():
            if name not in wanted:
                process.kill()
            elif time.monotonic() > process.began + self._timeout:
                process.overdue = True
                process.kill()
        if time.monotonic() > self._swept + SWEEP:
            for owner in store.owners():
                if not self._registry.alive(owner):
                    store.forsake(owner)
            store.sweep()
            self._swept = time.monotonic()
        while not self._stopping and self._accepting():
            job = store.claim(self._registry.name)
            if job is None:
                break
            self._begin(job)
        for state, jobs in store.counts().items():
            self._metrics.jobs.labels(state).set(jobs)

    def _begin(self, job: Job) -> None:
        try:
            process = JobProcess(job, self._store.path(job.id, ""), self._files, self._threads)
        except OSError:  # no memory, no more processes
            self._give_up(job)
            return
        process.thread = threading.Thread(target=self._follow, args=(job, process), name="job", daemon=True)
        self._running[job.id] = process
        try:
            process.thread.start()
        except RuntimeError:  # no more threads
            del self._running[job.id]
            process.kill()
            process.wait()
            self._give_up(job)

    def _give_up(self, job: Job) -> None:
        logger.exception("job %s could not be begun", job.id)
        ended = self._store.release(job.id, self._registry.name, State.FAILED, Reason.CRASHED)
        self._metrics.jobs_ended.labels(ended.state).inc()

    def _follow(self, job: Job, process: JobProcess) -> None:
        """Stores the progress that a job's process reports, and finally its outcome."""
        remaining = EtaEstimator(job.options, job.steps)
        previewed = False
        for said in process.steps():
            previewed |= said["preview"]
            eta = remaining.after(said["step"], time.monotonic())
            try:
                wanted = self._store.progress(
                    job.id, self._registry.name, said["step"], said["losses"], eta, previewed
                )
            except FAILURES:
                continue  # the next step reports it too; the next access to the store logs it
            if not wanted:
                process.kill()
        status = process.wait()
        state, reason = self._outcome(status, process)
        seconds = time.monotonic() - process.began
        while True:
            try:
                ended = self._store.release(job.id, self._registry.name, state, reason)
                break
            except JobUnknown:  # the store was removed or replaced meanwhile
                del self._running[job.id]
                logger.warning("job %s is not in the store any more; it ran for %.1f s", job.id, seconds)
                self._wake.set()
                return
            except FAILURES:
                if self._stopping:
                    return  # the next start of the server fails it
                time.sleep(IDLE)
        del self._running[job.id]
        self._metrics.jobs_ended.labels(ended.state).inc()
        self._metrics.job_seconds.labels(ended.state).observe(seconds)
        logger.info(
            "job %s %s after %.1f s, step %d%s",
            job.id,
            ended.state,
            seconds,
            ended.step,
            f": {ended.reason}, exit status {status}" if ended.reason else "",
        )
        self._wake.set()

    def _outcome(self, status: int, process: JobProcess) -> tuple[State, Reason | None]:
        if status == 0:
            return State.SUCCEEDED, None
        if process.overdue:
            return State.FAILED, Reason.TIMEOUT
        if self._stopping or status == -signal.SIGTERM:  # BentoML's arbiter ends a worker's children with it
            return State.FAILED, Reason.RESTARTED
        if status == NO_ROOM:
            return State.FAILED, Reason.STORAGE
        if status == -signal.SIGKILL and oom_kills() > process.oom_kills:
            return State.FAILED, Reason.OUT_OF_MEMORY
        return State.FAILED, Reason.CRASHED


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except FAILURES as exc:
        raise BackendError(str(exc)) from exc


class JobProcess:
    """One job's process.

    Attributes:
        began: on the monotonic clock.
        overdue: it was ended for running too long.
        oom_kills: processes that the kernel had ended as memory ran out, when it began.
        thread: follows it.
    """

    thread: threading.Thread

    def __init__(self, job: Job, folder: Path, files: Files, threads: int) -> None:
        self.began = time.monotonic()
        self.overdue = False
        self.oom_kills = oom_kills()
        root = str(Path(__file__).resolve().parents[2])
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LYNCEUS_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "OMP_NUM_THREADS": str(threads),
            "CUDA_VISIBLE_DEVICES": "",  # the device belongs to the batches
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service.jobs.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        order = files.order(job, folder, threads)
        assert self._process.stdin is not None  # noqa: S101 (a pipe, see above)
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()  # and stays open: its end is the process's
        except BrokenPipeError:
            pass  # it has died already, as `wait` will report

    def steps(self) -> Iterator[dict[str, Any]]:
        """Its progress reports, until it ends."""
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # else it was killed half way
                yield json.loads(line)

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # of an order that was not read
                if pipe is not None:
                    pipe.close()
        return status

    def kill(self) -> None:
        """Kills it; it needs no clean-up."""
        self._process.kill()
