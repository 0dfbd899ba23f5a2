"""A model that is being served: Pipeline + Executor + Batcher.

`run` takes one image and gives its result; the batching happens in between. Each runner has its
own threads, as many as it has slots, and admits only so many images at once, so that a refused one costs
no decoding.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from models.image import Image
from models.pipeline import Card, Inputs, Pipeline, Prepared
from service.engine.batcher import Batcher, BatchResult
from service.engine.cores import Cores
from service.engine.executor import Executor, is_device_lost, is_out_of_memory
from service.engine.observer import BatcherMetrics
from service.engine.threads import Threads
from service.errors import DeadlineExceeded, NotReady, OutOfMemory, Overloaded
from service.telemetry.metrics import BatchTimes, Metrics
from service.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from service.engine.process.front import Remote

    Batches: TypeAlias = Batcher[Any, Any] | Remote
    """What batches a runner's images: here, or in the device process."""

logger = logging.getLogger(__name__)

TOO_LARGE = "%s: a batch of %d does not fit into memory; %d is the most from now on"


Job = Prepared | Callable[[], Prepared]
"""A prepared image, or what prepares it."""


class State(Enum):
    """Life cycle of a runner."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Runner:
    """Serves one pipeline on one executor.

    Args:
        pipeline: what to serve.
        executor: how its module runs.
        metrics: where it is counted.
        max_batch: largest batch; less if the warm-up finds that it does not fit into the device's memory.
        max_queue: images that may wait.
        slots: batches on the device at once; also the runner's threads.
        linger: seconds that an idle queue's first image waits for more.
        max_wait: seconds that an image may wait.
        tracing: where spans go, if anywhere.

    Attributes:
        labels: what its spans carry.
        sharing: how many runners compute on the same cores or device now.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        executor: Executor,
        metrics: Metrics,
        *,
        max_batch: int,
        max_queue: int,
        slots: int = 1,
        linger: float = 0.0,
        max_wait: float = float("inf"),
        tracing: Tracing | None = None,
        cores: Cores | None = None,
    ) -> None:
        self._tracing = tracing
        self._cores = cores
        card = pipeline.card
        self.labels = {"lynceus.model": card.name, "lynceus.task": card.task.value}
        self.labels |= {"lynceus.executor": executor.name, "lynceus.device": executor.device}
        self.pipeline = pipeline.with_stages(executor.stages)
        self.executor = executor
        self.state = State.STARTING
        self._max_batch = self._wanted = max_batch
        self._slots = slots
        self._warmed_in = 0.0
        self._window = min(max_queue, 4 * max_batch)
        self._max_wait = max_wait
        self.sharing: Callable[[], int] = lambda: 1
        self._room = max_queue + slots * max_batch
        self._admitted = 0
        self._threads = Threads(slots, f"run-{pipeline.card.name}")
        self._compute_seconds = metrics.stage_seconds.labels(self.card.name, "compute")
        self._postprocess_seconds = metrics.stage_seconds.labels(self.card.name, "postprocess")
        self._refused = metrics.dropped.labels(self.card.name, "full")
        self._failed_seconds = metrics.failed_seconds.labels(self.card.name)
        self._batch_times = BatchTimes(metrics, self.card.name)
        self._make_batcher: Callable[[int], Batches] = lambda most: Batcher(
            self._run_batch,
            max_batch=most,
            max_queue=max_queue,
            slots=slots,
            linger=linger,
            max_wait=max_wait,
            sharing=lambda: self.sharing(),
            is_oom=is_out_of_memory,
            observer=BatcherMetrics(metrics, self.card.name),
        )
        self._batcher: Batches = self._make_batcher(max_batch)
        metrics.model_info.labels(
            self.card.name, executor.name, executor.device, executor.precision, self.card.sha256
        ).set(1)

    @property
    def card(self) -> Card:
        """The model's public card."""
        return self.pipeline.card

    @property
    def window(self) -> int:
        """Items that one request may have here at once: it neither fills the queue alone nor has to wait for
        its own for longer than half of `max_wait`."""
        seconds = self._batcher.seconds_per_item
        most = self._max_wait / 2 / seconds if seconds else self._window
        return min(self._window, max(self._max_batch, int(min(most, self._window))))

    @property
    def busy(self) -> bool:
        """A batch is on the device."""
        return self._batcher.inflight > 0

    def longest(self, now: float) -> float:
        """Seconds that the longest of its batches under way has taken; `now` is monotonic."""
        return self._batcher.longest(now)

    async def warm(self) -> None:
        """Warms batch sizes up to the largest for every shape; see `_warm`.

        Raises:
            Exception: whatever the warm-up raised; the runner is then `FAILED` permanently.
        """
        began = time.monotonic()
        with self._failing():
            for example in self.pipeline.examples:
                await self._threads.run(self._warm, example)
        self._warmed_in = time.monotonic() - began

    async def rehearse(self) -> None:
        """Runs images end to end, so that the libraries' first-call costs fall on no request; then is ready.

        On a CPU one is enough, since every network has run in the warm-up. On a GPU it runs the largest
        batches in all slots at once, and only after the warm-up of every model: the capture of a graph gives
        back the pinned memory that earlier batches left.

        Raises:
            Exception: whatever was raised; the runner is then `FAILED` permanently.
        """
        began = time.monotonic()
        with self._failing():
            on_cpu = self.executor.device == "cpu"
            for shape in self.pipeline.shapes[: 1 if on_cpu else None]:
                image = self.pipeline.rehearsal(shape)
                at_once = 1 if on_cpu else self._slots
                await asyncio.gather(*(self._threads.run(self._rehearse, image) for _ in range(at_once)))
        if self._max_batch < self._wanted:
            self._batcher = self._make_batcher(self._max_batch)
        self.state = State.READY
        logger.info(
            "%s ready in %.1f s: %s on %s, %s, sha256 %s",
            self.card.name,
            self._warmed_in + time.monotonic() - began,
            self.executor.name,
            self.executor.device,
            self.executor.precision,
            self.card.sha256[:16],
        )

    @contextlib.contextmanager
    def admit(self, deadline: float | None = None) -> Iterator[None]:
        """A place for one image, from before its decoding until its result.

        Args:
            deadline: on the monotonic clock, in seconds.

        Raises:
            NotReady: the runner is not ready.
            Overloaded: as many images as may wait are here already, or it could not be answered in time.
        """
        if self.state is not State.READY:
            raise NotReady(f"the model {self.card.name} is {self.state.value}")
        if self._admitted >= self._room:
            self._refused.inc()
            self._failed_seconds.observe(0.0)
            raise Overloaded(f"the queue of {self.card.name} is full", self._batcher.retry_after)
        try:
            self._batcher.check(self._admitted, deadline)
        except (Overloaded, DeadlineExceeded, NotReady):
            self._failed_seconds.observe(0.0)
            raise
        self._admitted += 1
        if self._cores is not None:
            self._cores.enter()
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self._failed_seconds.observe(time.monotonic() - began)
            raise
        finally:
            self._admitted -= 1
            if self._cores is not None:
                self._cores.leave()

    async def run(self, job: Job, deadline: float | None = None, waited: float = 0.0) -> BatchResult[Any]:
        """Gives one image's result, computed in a batch.

        Args:
            job: from the pipeline's `preprocess`, or a function that gives it, which is called in the
                runner's own thread just before the batch: on a single core another thread gains nothing, and
                the way to it and back costs time.
            deadline: on the monotonic clock, in seconds.
            waited: seconds that its request has waited before, see `Batcher.submit`.

        Raises:
            Overloaded, DeadlineExceeded, NotReady: from the batcher.
            Exception: what the preparation of this image or the model raised.
        """
        key = job.shapes if isinstance(job, Prepared) else None
        submitted = 0.0 if self._tracing is None else time.perf_counter()
        done = await self._batcher.submit(job, key=key, deadline=deadline, waited=waited)
        result, began, computed, seconds, size = done.result
        if self._tracing is not None:
            self._tracing.stage("queue", submitted, done.queue_s, self.labels)
            parts = (("compute", computed), ("postprocess", seconds - computed))
            self._tracing.stage("batch", began, seconds, self.labels | {"lynceus.batch.size": size}, parts)
        return BatchResult(result, done.queue_s, seconds, size)

    async def drain(self, grace: float) -> bool:
        """Refuses new images, finishes those admitted; whether all were within `grace` seconds."""
        self.state = State.DRAINING
        complete = await self._batcher.drain(grace)
        self._threads.close()
        return complete

    def _warm(self, example: Inputs) -> None:
        """Prepares for powers of two, or of four, and the largest batch, which comes first; leaves out those
        that do not fit into memory."""
        # on a GPU each takes a processor seconds, as cuDNN plans all convolutions anew; padding costs little
        factor = 2 if self.executor.device == "cpu" else 4
        sizes = [size for size in (factor**power for power in range(9)) if size < self._max_batch]
        for size in (self._max_batch, *reversed(sizes)):
            try:
                self.executor.warm(example, [size])
            except Exception as exc:
                if size == 1 or not is_out_of_memory(exc):
                    raise
                self._max_batch = max(below for below in sizes if below < size)
                logger.warning(TOO_LARGE, self.card.name, size, self._max_batch)

    def _rehearse(self, image: Image) -> None:
        count = 1 if self.executor.device == "cpu" else self._max_batch
        try:
            self._execute([self.pipeline.preprocess(image)] * count)
        except Exception as exc:
            if count == 1 or not is_out_of_memory(exc):
                raise
            self._max_batch = count // 2
            logger.warning(TOO_LARGE, self.card.name, count, self._max_batch)
        else:
            return
        self._rehearse(image)  # behind the error, whose frames hold memory

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.state = State.FAILED
            raise

    async def _run_batch(self, jobs: Sequence[Job]) -> Sequence[Any]:
        try:
            return await self._threads.run(self._execute, jobs)
        except Exception as exc:
            if is_device_lost(exc):
                self.state = State.FAILED
                logger.critical("%s: the device is lost", self.card.name, exc_info=exc)
            elif is_out_of_memory(exc):
                logger.warning("%s: a batch of %d ran out of memory", self.card.name, len(jobs))
                if len(jobs) == 1:
                    traceback.clear_frames(exc.__traceback__)  # or the error keeps what filled the memory
                    what = f"one image alone does not fit into the memory that {self.card.name} has left"
                    raise OutOfMemory(what) from exc
            raise

    def _execute(self, jobs: Sequence[Job]) -> list[Any]:
        started = time.perf_counter()
        results: list[Any] = [None] * len(jobs)
        by_shape: dict[tuple[tuple[int, ...], ...], list[tuple[int, Prepared]]] = {}
        for index, job in enumerate(jobs):
            try:
                item = job if isinstance(job, Prepared) else job()
            except Exception as exc:  # fails alone
                results[index] = exc
            else:
                by_shape.setdefault(item.shapes, []).append((index, item))
        preparing = time.perf_counter() - started
        ready = sum(len(group) for group in by_shape.values())
        for group in by_shape.values():
            began = time.perf_counter()
            answers, computed = self._compute([item for _, item in group], preparing * len(group) / ready)
            seconds = time.perf_counter() - began  # without the preparation, which is reported separately
            for (index, _), result in zip(group, answers, strict=True):
                results[index] = (result, began, computed, seconds, len(group))
        return results

    def _compute(self, items: Sequence[Prepared], preparing: float) -> tuple[list[Any], float]:
        """The results of a batch, and how many seconds of it the network took."""
        began = time.perf_counter()
        outputs = self.executor.run([item.inputs for item in items])
        computed = time.perf_counter()
        results = self.pipeline.postprocess(outputs, [item.context for item in items])
        ended = time.perf_counter()
        if self.state is not State.STARTING:  # the warm-up image belongs to no request
            self._compute_seconds.observe(computed - began)
            self._postprocess_seconds.observe(ended - computed)
            self._batch_times.observe(len(items), preparing, computed - began, ended - computed)
        return results, computed - began
