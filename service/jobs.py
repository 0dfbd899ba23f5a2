"""Long work, the optimisation of a style: submitted, watched, cancelled, fetched; from any worker."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from bisect import bisect
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar

from models.errors import ModelError, ParameterInvalid
from models.image import Image, decode, encode, resize
from models.style.optimise import OptimiseOptions
from service.dataplane import DataPlane
from service.errors import JobFinished, JobUnfinished, JobUnknown, NotReady, Overloaded, StorageFailed
from service.job import Job, Reason, State
from service.jobstore import PREVIEW, RESULT, JobStore
from service.offload import Call
from service.painter import Painter
from service.pictures import Format

__all__ = ["Job", "JobDesk", "Reason", "State"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
WATCH = 0.25
"""Seconds between two looks at a job that somebody watches: it may run in another worker."""

QUIET = 60
"""So many looks without a change, and the watcher is told that nothing has changed."""

WATCHERS = 64
"""Most event streams at once, per worker; of one client at most a quarter of them."""

STEP_SECONDS, PIXEL_SECONDS, PASS_SECONDS = 0.015, 1.5e-6, 1e-6
"""CPU seconds of a step, of each of its pixels besides, and of a pixel of a forward pass before the steps.

Measured at 64 to 1024 pixels on one core of an AMD EPYC server: 16 to 1,500 ms a step."""

TIMEOUT_SHARE = 0.25
"""Part of the time limit that a job may need on a free core: the rest is for cores that are not."""

GONE = 40
"""So many looks at most until a cancelled job's process is gone."""


class JobDesk:
    """Everything about jobs.

    Args:
        store: of the jobs, shared by the workers.
        painter: this worker's.
        plane: whose threads decode and encode.
        timeout: seconds that a job may run; what a job may cost follows from it.
    """

    def __init__(
        self,
        store: JobStore,
        painter: Painter,
        plane: DataPlane,
        *,
        timeout: float = 3600.0,
    ) -> None:
        self._store, self._painter, self._plane = store, painter, plane
        self._budget = timeout * TIMEOUT_SHARE
        self._watchers: Counter[str] = Counter()

    async def admit(self, options: Mapping[str, Any], client: str = "") -> OptimiseOptions:
        """Whether a job would be taken now, told before its images are read.

        Raises:
            ParameterInvalid: an option is out of its range, or the job costs too much.
            Overloaded: too many jobs wait, or too many of this client.
            NotReady, StorageFailed: the service.
        """
        wanted = OptimiseOptions(**options)
        if cost_of(wanted) > self._budget:
            self._refuse(wanted)
        if self._plane.draining:
            raise NotReady("the service is ending")
        await self._stored(lambda: self._store.check_room(client))
        return wanted

    async def submit(
        self,
        content: bytes,
        style: bytes,
        options: Mapping[str, Any],
        *,
        client: str = "",
        deadline: float | None = None,
    ) -> Job:
        """A new job, which goes on whether or not anybody waits for it.

        Args:
            content, style: encoded images; nothing of them is referred to after they are decoded.
            options: fields of `OptimiseOptions`.
            client: whose job it is.
            deadline: of this call alone, on the monotonic clock.

        Raises:
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: of the picture that `image` names.
            ParameterInvalid, Overloaded, NotReady, StorageFailed: as `admit`.
            DeadlineExceeded: the images were not decoded in time.
        """
        given = {"content": content, "style": style}
        del content, style
        wanted = await self.admit(options, client)
        sizes = {"content": wanted.size, "style": wanted.style_size or wanted.size * 3 // 2}

        plane, plans = self._plane, {}
        for name, size in sizes.items():
            with _named(name):
                plans[name] = await plane.plan(given[name], min_side=size)

        def shrunk(call: Call) -> dict[str, bytes]:
            images = {}
            for name, size in sizes.items():
                call.check()
                with _named(name):
                    image = decode(given.pop(name), plane.limits, min_side=size, plan=plans[name])
                call.check()
                images[name] = encode(_within(image, size), "png")
            return images

        memory = max(plan.memory for plan in plans.values())
        pictures = await plane.offload.run(shrunk, deadline, memory=memory)
        job = await self._stored(
            lambda: self._store.submit(
                asdict(wanted),
                wanted.steps,
                pictures["content"],
                pictures["style"],
                client=client,
                work=cost_of(wanted),
            )
        )
        self._painter.wake()
        return job

    async def job(self, job: str, owner: str | None = None) -> Job:
        """A job as it stands.

        Args:
            job: its id.
            owner: the only client whose jobs are known, or None for all.

        Raises:
            JobUnknown: there is none of that id.
            StorageFailed: the disk.
        """
        found = await self._stored(lambda: self._store.get(job))
        if owner is not None and found.client != owner:
            raise JobUnknown("there is no job of that id, or it has expired")
        return found

    async def cancel(self, job: str, owner: str | None = None) -> Job:
        """Cancels a job. When it returns the job's process is gone, if the machine is not too busy for that.

        Raises:
            JobFinished: it is over already.
            JobUnknown, StorageFailed: as `job`.
        """
        if owner is not None:
            await self.job(job, owner)
        found = await self._stored(lambda: self._store.cancel(job))
        self._painter.wake()
        for _ in range(GONE):
            if not found.busy:
                break
            await asyncio.sleep(WATCH)  # its worker may be another one
            found = await self.job(job)
        return found

    async def result(self, job: str, kind: Format, owner: str | None = None) -> bytes:
        """The encoded picture that a job made.

        Raises:
            JobUnfinished: it has not ended yet.
            JobFinished: it ended without one.
            JobUnknown, StorageFailed: as `job`.
        """
        found = await self.job(job, owner)
        if not found.final:
            raise JobUnfinished(f"the job is {found.state}, step {found.step} of {found.steps}")
        if found.state is not State.SUCCEEDED:
            raise JobFinished(f"the job is {found.state}: there is no result")
        return await self._picture(job, RESULT, kind)

    async def preview(self, job: str, kind: Format, owner: str | None = None) -> bytes:
        """The latest picture of a job, at the end its result.

        Raises:
            JobUnfinished: there is none yet.
            JobFinished: there will be none.
            JobUnknown, StorageFailed: as `job`.
        """
        found = await self.job(job, owner)
        if found.state is State.SUCCEEDED:
            return await self._picture(job, RESULT, kind)
        if found.preview:
            return await self._picture(job, PREVIEW, kind)
        if found.final:
            raise JobFinished(f"the job is {found.state}: there is no preview")
        raise JobUnfinished(f"there is no preview yet at step {found.step} of {found.steps}")

    def watch(self, job: Job, after: int = -1, client: str = "") -> AsyncGenerator[Job | None, None]:
        """A job as it changes: its state after each change that is seen, until it is over or the worker ends.

        Args:
            job: as it stands.
            after: the revision that is known already.
            client: who watches.

        Yields:
            The job, or None when nothing has changed for a quarter of a minute.

        Raises:
            Overloaded: too many watch already, or this client watches too much.
        """
        if self._watchers.total() >= WATCHERS:
            raise Overloaded("too many clients watch their jobs", 5.0)
        if self._watches_its_share(client):
            raise Overloaded(
                f"{self._watchers[client]} event streams of this client are open, which is its share", 5.0
            )
        return self._changes(job, after, client)

    def _watches_its_share(self, client: str) -> bool:
        return self._watchers[client] >= -(-WATCHERS // 4)

    async def _changes(self, job: Job, after: int, client: str) -> AsyncGenerator[Job | None, None]:
        # Counted where it certainly ends. Others may have begun since `watch` looked: then it ends at once.
        if self._watchers.total() >= WATCHERS or self._watches_its_share(client):
            return
        self._watchers[client] += 1
        try:
            quiet = 0
            while True:
                if job.revision > after:
                    yield job
                    after, quiet = job.revision, 0
                if job.final or self._plane.draining:
                    return
                await asyncio.sleep(WATCH)
                quiet += 1
                if quiet % QUIET == 0:
                    yield None
                try:
                    job = await self.job(job.id)
                except StorageFailed:
                    continue  # it may come back
                except JobUnknown:
                    return
        finally:
            self._watchers[client] -= 1
            if not self._watchers[client]:
                del self._watchers[client]

    async def _picture(self, job: str, name: str, kind: Format) -> bytes:
        def work(_: Call) -> bytes:
            try:
                data = self._store.path(job, name).read_bytes()
            except FileNotFoundError:
                raise JobUnknown("the job has expired") from None
            return data if kind == "png" else encode(decode(data).pixels, kind)

        return await self._plane.offload.run(work)

    async def _stored(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except (sqlite3.Error, OSError) as exc:
            logger.warning("jobs cannot be stored: %s", exc)
            raise StorageFailed("jobs cannot be stored at the moment") from exc

    def _refuse(self, wanted: OptimiseOptions) -> None:
        most = bisect(range(1, wanted.steps), self._budget, key=lambda steps: self._cost(wanted, steps))
        limit = f"a job may take {self._budget:g} s of a free core"
        if not most:
            raise ParameterInvalid("size", f"{limit}: too little for any step at a size of {wanted.size}")
        raise ParameterInvalid(
            "steps",
            f"{limit}: at a size of {wanted.size}, with {wanted.levels} levels, steps must be {most} at most",
        )

    @staticmethod
    def _cost(wanted: OptimiseOptions, steps: int) -> float:
        return cost_of(replace(wanted, steps=steps))


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
    seconds, done = 0.0, 0
    painting = options.style_size or options.size * 3 // 2
    for level in reversed(range(options.levels)):  # as `models.style.optimise.optimise` goes through them
        steps = (options.steps - done) // (level + 1)
        done += steps
        pixels, style = ((side >> level) ** 2 for side in (options.size, painting))
        seconds += steps * (STEP_SECONDS + PIXEL_SECONDS * pixels) + PASS_SECONDS * (4 * pixels + style)
    return seconds


def _within(image: Image, size: int) -> Any:
    scale = size / max(image.pixels.shape[:2])
    if scale >= 1:
        return image.pixels
    height, width = (max(1, round(side * scale)) for side in image.pixels.shape[:2])
    return resize(image.pixels, height, width, interpolation="bicubic")
