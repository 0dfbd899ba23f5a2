"""Jobs: submitted, watched, cancelled, fetched; from any worker, whatever keeps and runs them."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from models.classification.explain.maps import check_channel, find_label, find_layer
from models.classification.explain.result import VisualizeOptions, check_target
from models.errors import ModelError, ParameterInvalid
from models.image import Image, decode, encode, resize
from models.pipeline import Kind
from models.style.result import OptimiseOptions, steps_by_level
from service.engine.engine import Engine
from service.engine.installed import has_torch
from service.engine.offload import Call
from service.engine.threads import Aside
from service.errors import JobFinished, JobUnfinished, JobUnknown, NotReady, Overloaded, StorageFailed
from service.jobs.backend import Backend, BackendError, ImageName
from service.jobs.job import Files, Job, JobKind, NewJob, State
from service.jobs.liveness import WorkerRegistry
from service.jobs.local import LocalJobs
from service.jobs.store import JobStore
from service.settings import Settings
from service.tasks.explain import layers_of
from service.tasks.render import ImageFormat
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")
WATCH = 0.25
"""Seconds between two reads of a job that is watched: it may run in another worker."""

QUIET = 60
"""After so many reads without a change the watcher gets a keep-alive."""

WATCHERS = 64
"""Most event streams at once, per worker; of one client at most a quarter of them."""

STEP_SECONDS, PIXEL_SECONDS, PASS_SECONDS = 0.015, 1.5e-6, 1e-6
"""CPU seconds of a step, of each of its pixels besides, and of a pixel of a forward pass before the steps.

Measured at 64 to 1024 pixels on one core of an AMD EPYC server: 16 to 1,500 ms a step."""

TIMEOUT_SHARE = 0.25
"""Part of the time limit that a job may need on a free core: the rest is for busy cores."""

STORED = 5.0
"""Longest in seconds that a request waits for the store."""

MULTIPLY_ADD_SECONDS = 3e-10
"""CPU seconds of a step of a visualisation for each multiplication of a pass up to the layer, forward and
backward; measured with EfficientNet-Lite0 on one core: 0.078 s for 384 million."""

ENDS = 8
"""Most reads of a watched job once the worker stops: its end should come, since its process ends too."""

GONE = 40
"""Most reads until a cancelled job's process has ended."""


class JobService:
    """The operations on jobs.

    Args:
        backend: keeps and runs them; started and stopped with the worker.
        engine: whose threads decode and encode.
        timeout: seconds that a job may run; what a job may cost follows from it.
        stylizes: something can run style jobs.

    Attributes:
        backend: the same.
        stylizes: the same.
    """

    def __init__(
        self, backend: Backend, engine: Engine, *, timeout: float = 3600.0, stylizes: bool = True
    ) -> None:
        self.backend, self.stylizes, self._engine = backend, stylizes, engine
        self._budget = timeout * TIMEOUT_SHARE
        self._reads, self._writes = Aside("jobs-read", STORED), Aside("jobs-write", STORED)
        self._watchers: Counter[str] = Counter()

    async def admit(self, options: OptimiseOptions, client: str = "") -> None:
        """Whether a job would be accepted now, checked before its images are read.

        Raises:
            ParameterInvalid: an option is out of its range, or the job costs too much.
            Overloaded: too many jobs wait, or too many of this client.
            NotReady, StorageFailed: the service.
        """
        if cost_of(options) > self._budget:
            self._refuse(options)
        await self._check_room(client)

    async def _check_room(self, client: str) -> None:
        if self._engine.draining:
            raise NotReady("the service is ending")
        await self._stored(self._reads, lambda: self.backend.check_room(client))

    async def submit(
        self,
        images: dict[str, bytes],
        options: OptimiseOptions,
        *,
        client: str = "",
        deadline: float | None = None,
    ) -> Job:
        """A new style job, which goes on whether or not its client stays connected.

        Args:
            images: `content` and `style`, encoded; each is taken out when it is decoded.
            options: of the job.
            client: the job's owner.
            deadline: of this call alone, on the monotonic clock.

        Raises:
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: of the image that `image` names.
            ParameterInvalid, Overloaded, NotReady, StorageFailed: as `admit`.
            DeadlineExceeded: the images were not decoded in time.
        """
        await self.admit(options, client)
        sizes = {"content": options.size, "style": options.painting_size}

        engine, plans = self._engine, {}
        for name, size in sizes.items():
            with _named(name):
                plans[name] = await engine.plan(images[name], min_side=size)

        def shrunk(call: Call) -> dict[str, bytes]:
            found = {}
            for name, size in sizes.items():
                call.check()
                with _named(name):
                    image = decode(images.pop(name), engine.limits, min_side=size, plan=plans[name])
                call.check()
                found[name] = encode(_within(image, size), "png")
            return found

        memory = max(plan.memory for plan in plans.values())
        resized = await engine.offload.run(shrunk, deadline, memory=memory)
        chosen, work = options.model_dump() | {"levels": options.level_count}, cost_of(options)
        new = NewJob(JobKind.STYLIZE, chosen, options.steps, resized, client, work)
        return await self._stored(self._writes, lambda: self.backend.submit(new))

    async def visualize(
        self, model: str, options: VisualizeOptions, *, client: str = "", deadline: float | None = None
    ) -> Job:
        """A new job that makes an image of what a classifier looks for.

        Args:
            model: a served classifier.
            options: of the job.
            client: the job's owner.
            deadline: of this call alone, on the monotonic clock.

        Raises:
            ModelUnknown: it is not served, or is no classifier.
            ParameterInvalid: there is no such layer, channel or label, or the job costs too much.
            Overloaded: too many jobs wait, or too many of this client.
            NotReady, NotSupported, StorageFailed, DeadlineExceeded: the service.
        """
        runner = self._engine.find(Kind.CLASSIFY, model)
        check_target(options)
        label = None if options.label is None else find_label(runner.card, options.label)
        await self._check_room(client)
        found = await layers_of(self._engine, runner, deadline)
        if label is None:
            layer = find_layer(model, found, options.layer)
            check_channel(layer, options.channel or 0)
            options = options.model_copy(update={"layer": layer.name})
        else:
            layer = found[-1]  # behind it only the classes
            options = options.model_copy(update={"label": str(label)})
        pixels = (options.size or max(runner.pipeline.shapes[0][:2])) ** 2
        step = STEP_SECONDS + PIXEL_SECONDS * pixels + MULTIPLY_ADD_SECONDS * layer.multiply_adds
        if options.steps * step > self._budget:
            most = int(self._budget / step)
            limit = f"a job may take {self._budget:g} s of a free core"
            raise ParameterInvalid(
                "steps", f"{limit}: for {model} and {layer.name}, steps must be {most} at most"
            )
        kept = options.model_dump() | {"model": model, "sha256": runner.card.sha256}
        new = NewJob(JobKind.VISUALIZE, kept, options.steps, {}, client, options.steps * step)
        return await self._stored(self._writes, lambda: self.backend.submit(new))

    async def job(self, job: str, owner: str | None = None) -> Job:
        """A job as it stands.

        Args:
            job: its id.
            owner: the only client whose jobs are known, or None for all.

        Raises:
            JobUnknown: there is none of that id.
            StorageFailed: what keeps the jobs cannot be used.
        """
        found = await self._stored(self._reads, lambda: self.backend.get(job))
        if owner is not None and found.client != owner:
            raise JobUnknown("there is no job of that id, or it has expired")
        return found

    async def cancel(self, job: str) -> Job:
        """Cancels a job. When it returns the job's process is gone, unless the machine is overloaded.

        Raises:
            JobFinished: it is over already.
            JobUnknown, StorageFailed: as `job`.
        """
        found = await self._stored(self._writes, lambda: self.backend.cancel(job))
        for _ in range(GONE):
            if not found.busy:
                break
            await asyncio.sleep(WATCH)  # another worker may run it
            found = await self.job(job)
        return found

    async def result(self, job: Job, image_format: ImageFormat) -> bytes:
        """The encoded image that a job made.

        Raises:
            JobUnfinished: it has not ended yet.
            JobFinished: it ended without one.
            JobUnknown: it has expired.
        """
        if not job.final:
            raise JobUnfinished(f"the job is {job.state}, step {job.step} of {job.steps}")
        if job.state is not State.SUCCEEDED:
            raise JobFinished(f"the job is {job.state}: there is no result")
        return await self._image(job.id, "result", image_format)

    async def preview(self, job: Job, image_format: ImageFormat) -> bytes:
        """The latest image of a job, at the end its result.

        Raises:
            JobUnfinished: there is none yet.
            JobFinished: there will be none.
            JobUnknown: it has expired.
        """
        if job.state is State.SUCCEEDED:
            return await self._image(job.id, "result", image_format)
        if job.preview:
            return await self._image(job.id, "preview", image_format)
        if job.final:
            raise JobFinished(f"the job is {job.state}: there is no preview")
        raise JobUnfinished(f"there is no preview yet at step {job.step} of {job.steps}")

    async def watch(self, job: Job, after: int = -1, client: str = "") -> AsyncGenerator[Job | None, None]:
        """A job as it changes: its state after each change that is seen, until it is over or the worker ends.

        Args:
            job: as it stands.
            after: the revision that is known already.
            client: the watching client.

        Yields:
            None at once, and when nothing has changed for a quarter of a minute; else the job.

        Raises:
            Overloaded: too many watch already, or this client watches too much.
        """
        if self._watchers.total() >= WATCHERS:
            raise Overloaded("too many clients watch their jobs", 5.0)
        if (open_already := self._watchers[client]) >= -(-WATCHERS // 4):
            what = f"{open_already} event streams of this client are open, which is its share"
            raise Overloaded(what, 5.0)
        self._watchers[client] += 1
        try:
            yield None
            quiet, ends = 0, ENDS
            while True:
                if job.revision > after:
                    yield job
                    after, quiet = job.revision, 0
                ends -= self._engine.draining
                if job.final or ends <= 0:
                    return
                await asyncio.sleep(WATCH)
                quiet += 1
                if quiet % QUIET == 0:
                    yield None
                try:
                    job = await self.job(job.id)
                except StorageFailed:
                    continue  # the disk may recover
                except JobUnknown:
                    return
        finally:
            self._watchers[client] -= 1
            if not self._watchers[client]:
                del self._watchers[client]

    async def _image(self, job: str, name: ImageName, image_format: ImageFormat) -> bytes:
        data = await self._stored(self._reads, lambda: self.backend.image(job, name))
        if image_format == "png":
            return data
        return await self._engine.offload.run(lambda _: encode(decode(data).pixels, image_format))

    async def _stored(self, aside: Aside, work: Callable[[], T]) -> T:
        try:
            return await aside.run(work)
        except (BackendError, TimeoutError) as exc:
            logger.warning("jobs cannot be stored: %s", exc or "their store does not answer")
            raise StorageFailed("jobs cannot be stored at the moment") from exc

    def _refuse(self, wanted: OptimiseOptions) -> None:
        def cost(steps: int) -> float:
            return cost_of(wanted.model_copy(update={"steps": steps}))

        most = bisect(range(1, wanted.steps), self._budget, key=cost)
        limit = f"a job may take {self._budget:g} s of a free core"
        if not most:
            raise ParameterInvalid("size", f"{limit}: too little for any step at a size of {wanted.size}")
        raise ParameterInvalid(
            "steps",
            f"{limit}: at a size of {wanted.size}, with {wanted.level_count} levels, "
            f"steps must be {most} at most",
        )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """An error within is that of the image `name`."""
    try:
        yield
    except ModelError as exc:
        exc.image = name
        raise


def cost_of(options: OptimiseOptions) -> float:
    """CPU seconds that a job should take on a free core, for square images: others take less."""
    seconds, levels = 0.0, options.level_count
    for level, steps in enumerate(steps_by_level(options.steps, levels), 1):
        halvings = levels - level
        pixels, style = ((side >> halvings) ** 2 for side in (options.size, options.painting_size))
        seconds += steps * (STEP_SECONDS + PIXEL_SECONDS * pixels) + PASS_SECONDS * (4 * pixels + style)
    return seconds


def _within(image: Image, size: int) -> Any:
    scale = size / max(image.pixels.shape[:2])
    if scale >= 1:
        return image.pixels
    height, width = (max(1, round(side * scale)) for side in image.pixels.shape[:2])
    return resize(image.pixels, height, width, interpolation="bicubic")


def make_jobs(settings: Settings, engine: Engine, metrics: Metrics) -> JobService | None:
    """Jobs, where something can run them: job workers, or torch here, and a served network that the losses
    of style jobs use or that can be visualised."""
    backend: Backend
    stylizes = True
    if settings.jobs != "local":
        from service.jobs.queued import make_queued  # redis and rq, which one machine does not need

        backend = make_queued(settings, metrics)
    else:
        perceptual = (runner.pipeline.perceptual for runner in engine.runners.values())
        network = next((file for file in perceptual if file is not None), None)
        explained = any(runner.pipeline.explainable for runner in engine.runners.values())
        if not has_torch() or (network is None and not explained):
            return None
        stylizes = network is not None
        files = Files(network, settings.catalogue, settings.weights_dir)
        store = JobStore(
            settings.state_folder,
            max_jobs=settings.max_jobs,
            max_waiting=settings.max_waiting_jobs,
            expiry=settings.job_expiry_seconds,
        )
        backend = LocalJobs(
            store,
            WorkerRegistry(settings.state_folder / "workers"),
            files,
            metrics,
            threads=settings.job_threads,
            timeout=settings.job_timeout_seconds,
            accepting=lambda: not engine.draining,
        )
    return JobService(backend, engine, timeout=settings.job_timeout_seconds, stylizes=stylizes)
