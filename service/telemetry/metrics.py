"""Every metric with its labels and buckets, in one place; correct with several workers.

With several workers each process writes its values to files in `PROMETHEUS_MULTIPROC_DIR` (set by BentoML
before a worker imports anything) and whichever worker is scraped adds them up: prometheus-client's
multi-process mode. `python -m service.telemetry.metrics` prints the table of docs/metrics.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, Summary, generate_latest
from prometheus_client import values as prometheus_values
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
JOB_SECONDS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
STAGES = ("decode", "queue", "compute", "postprocess")
WORKER_DEATHS = (
    "lynceus_worker_deaths",
    "Workers that a signal ended (counted by their supervisor); OOM: by the kernel, as memory ran out.",
)
WORKER_STARTS = ("lynceus_worker_starts", "Workers that were started (counted by their supervisor).")
DEVICE_DEATHS = (
    "lynceus_device_deaths",
    "Device processes that a signal ended (as `lynceus_worker_deaths`). Only with LYNCEUS_ENGINE=process.",
)
DEVICE_STARTS = (
    "lynceus_device_starts",
    "Device processes that were started (counted by their supervisor). Only with LYNCEUS_ENGINE=process.",
)
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
FILE_BYTES = 1 << 16
"""Initial size of a worker's file of values."""


class ReservedFile(MmapedDict):
    """A worker's values, in a mapped file whose room on the disk is taken before anything is written there.

    A page of a mapped file that finds the disk full ends the process (SIGBUS). With this, a full disk is an
    OSError at the start; later it hides the values of new labels, which the worker keeps until there is room.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            with Path(filename).open("ab") as file:
                try:
                    _reserve(file.fileno(), FILE_BYTES)
                except OSError:
                    if not file.tell():  # collecting fails on an empty file
                        Path(filename).unlink(missing_ok=True)
                    raise
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        needed = self._capacity
        while self._used + len(key.encode()) + 32 > needed:  # a length, padding and two doubles
            needed *= 2
        if needed > self._capacity:
            _reserve(self._f.fileno(), needed)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> tuple[float, float]:
        try:
            value, timestamp = super().read_value(key)  # type: ignore[no-untyped-call]
        except OSError:
            return 0.0, 0.0
        return value, timestamp

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        try:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        except OSError:
            return  # the next write tries again


def _reserve(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise  # else the file system cannot reserve


prometheus_values.MmapedDict = ReservedFile  # type: ignore[attr-defined]  # there is no other place for it


class Metrics:
    """The service's metrics on one registry (a fresh one for each test)."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        counter, summary = partial(Counter, registry=registry), partial(Summary, registry=registry)
        gauge, histogram = partial(Gauge, registry=registry), partial(Histogram, registry=registry)
        self.requests = counter(
            "lynceus_requests_total",
            "Requests by task, transport and outcome (`ok` or an error's code).",
            ["task", "transport", "code"],
        )
        self.request_seconds = histogram(
            "lynceus_request_seconds",
            "From a request's first byte to its answer.",
            ["task", "transport"],
            buckets=SECONDS,
        )
        self.stage_seconds = histogram(
            "lynceus_stage_seconds",
            "Seconds by stage: decode, queue (per image), compute, postprocess (per batch).",
            ["model", "stage"],
            buckets=SECONDS,
        )
        self.batch_size = histogram("lynceus_batch_size", "Images per batch.", ["model"], buckets=SIZES)
        self.queue_depth = gauge(
            "lynceus_queue_depth", "Images waiting for the device.", ["model"], multiprocess_mode="livesum"
        )
        self.inflight_batches = gauge(
            "lynceus_inflight_batches", "Batches on the device.", ["model"], multiprocess_mode="livesum"
        )
        self.dropped = counter(
            "lynceus_dropped_total",
            "Images without a result: full, hopeless (refused), expired, cancelled (the client has left), "
            "lost (the device process ended).",
            ["model", "reason"],
        )
        self.batches = counter(
            "lynceus_batches_total", "Batches that gave results, by size.", ["model", "size"]
        )
        self.batch_seconds = counter(
            "lynceus_batch_seconds_total",
            "Their seconds by stage: prepare (in the model's own thread, if there), compute, postprocess.",
            ["model", "size", "stage"],
        )
        self.last_batch = gauge(
            "lynceus_last_batch_timestamp_seconds",
            "When the latest batch gave results, seconds since 1970.",
            ["model"],
            multiprocess_mode="max",
        )
        self.failed_seconds = summary(
            "lynceus_failed_seconds",
            "Images that got no result, refused ones too: from their admission to their failure.",
            ["model"],
        )
        self.model_info = gauge(
            "lynceus_model_info",
            "1 for each loaded model.",
            ["model", "executor", "device", "precision", "weights"],
            multiprocess_mode="livemax",
        )

        self.gpu_memory = gauge(
            "lynceus_gpu_memory_bytes",
            "Memory of each GPU that models are on: used (by all processes) and total. Only with a GPU.",
            ["gpu", "kind"],
            multiprocess_mode="livemostrecent",  # one GPU's workers all report the same
        )
        self.gpu_utilization = gauge(
            "lynceus_gpu_utilization",
            "Share of the last moment in which the GPU computed anything, 0 to 1. Only with a GPU.",
            ["gpu"],
            multiprocess_mode="livemostrecent",
        )

        self.worker_deaths = counter(*WORKER_DEATHS, ["signal"])
        self.worker_starts = counter(*WORKER_STARTS)
        self.device_deaths = counter(*DEVICE_DEATHS, ["signal"])
        self.device_starts = counter(*DEVICE_STARTS)
        self.device_up = gauge(
            "lynceus_device_up",
            "Whether every front end is connected to this device process, 0 or 1. Only with "
            "LYNCEUS_ENGINE=process.",
            ["device"],
            multiprocess_mode="livemin",
        )
        self.loop_lag = histogram(
            "lynceus_loop_lag_seconds",
            "How late a timer of the event loop came, looked at twice a second.",
            buckets=SECONDS,
        )
        self.hang_seconds = gauge(
            "lynceus_hang_seconds",
            "How long a call of a model has taken (`model`), a worker's event loop has stood (`worker`).",
            ["what"],
            multiprocess_mode="livemax",
        )
        self.log_dropped = counter(
            "lynceus_log_dropped_total",
            "Lines of the log that were dropped, as what reads them does not keep up.",
        )

        self.jobs = gauge(
            "lynceus_jobs",
            "Jobs that wait (`queued`) and run (`running`).",
            ["state"],
            multiprocess_mode="livemostrecent",
        )
        self.job_workers = gauge(
            "lynceus_job_workers",
            "Job workers that have been heard of. Only with jobs in Redis.",
            ["queue"],
            multiprocess_mode="livemostrecent",
        )
        self.job_store_up = gauge(
            "lynceus_job_store_up",
            "Whether the Redis of the jobs can be reached, 0 or 1. Only with jobs in Redis.",
            ["queue"],
            multiprocess_mode="livemin",
        )
        self.jobs_ended = counter(
            "lynceus_jobs_ended_total",
            "Jobs that were begun and are over, by outcome (`succeeded`, `failed`, `cancelled`).",
            ["outcome"],
        )
        self.job_seconds = histogram(
            "lynceus_job_seconds", "How long they ran.", ["outcome"], buckets=JOB_SECONDS
        )

    def render(self) -> bytes:
        """The Prometheus text of all workers."""
        return generate_latest(self._of_all())

    def collect(self) -> Iterable[Metric]:
        """The same as objects."""
        return self._of_all().collect()

    def _of_all(self) -> CollectorRegistry:
        directory = os.environ.get(DIRECTORY)
        if not directory:
            return self.registry
        forget_dead_workers()  # a killed worker is left out, even before it is replaced
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=directory)
        return registry


class BatchTimes:
    """Counts one model's batches by their size; from any of its threads.

    The children are looked up once for each size that occurs, not per batch.
    """

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._last = metrics.last_batch.labels(model)
        self._sizes: dict[int, tuple[Counter, Counter, Counter, Counter]] = {}

    def observe(self, size: int, prepare: float, compute: float, postprocess: float) -> None:
        """One batch that gave results, and the seconds of its three stages."""
        children = self._sizes.get(size)
        if children is None:
            seconds, labels = self._metrics.batch_seconds, (self._model, str(size))
            children = self._sizes[size] = (
                self._metrics.batches.labels(*labels),
                seconds.labels(*labels, "prepare"),
                seconds.labels(*labels, "compute"),
                seconds.labels(*labels, "postprocess"),
            )
        children[0].inc()
        children[1].inc(prepare)
        children[2].inc(compute)
        children[3].inc(postprocess)
        self._last.set(time.time())


def forget_dead_workers() -> None:
    """Drops the live gauges of workers that were killed. Their counters are kept."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return
    for path in Path(directory).glob("gauge_live*.db"):
        found = re.search(r"_(\d+)\.db$", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                mark_process_dead(int(found[1]), directory)


def leave() -> None:
    """Drops this worker's own live gauges (called when it stops)."""
    directory = os.environ.get(DIRECTORY)
    if directory:
        mark_process_dead(os.getpid(), directory)


def main() -> None:
    """Prints the metrics as a Markdown table."""
    print("| metric | labels | meaning |\n| --- | --- | --- |")
    for metric in vars(Metrics()).values():
        if isinstance(metric, (Counter, Gauge, Histogram, Summary)):
            name = metric._name + ("_total" if isinstance(metric, Counter) else "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            print(f"| `{name}` | {labels} | {metric._documentation} |")


if __name__ == "__main__":
    main()
