"""Long work, the optimisation of a style: submitted, watched, cancelled, fetched; from any worker."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from models.errors import ModelError
from models.image import Image, Limits, decode, encode, resize
from models.style.optimise import OptimiseOptions
from service.errors import JobFinished, JobUnfinished, JobUnknown, NotReady, Overloaded, StorageFailed
from service.job import Job, Reason, State
from service.jobstore import PREVIEW, RESULT, JobStore
from service.painter import Painter
from service.pictures import Format, PictureDesk

__all__ = ["Job", "JobDesk", "Reason", "State"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
WATCH = 0.25
"""Seconds between two looks at a job that somebody watches: it may run in another worker."""

QUIET = 60
"""So many looks without a change, and the watcher is told that nothing has changed."""

WATCHERS = 64
"""Most clients that watch at once, per worker."""

GONE = 40
"""So many looks at most until a cancelled job's process is gone."""


class JobDesk:
    """Everything about jobs.

    Args:
        store: of the jobs, shared by the workers.
        painter: this worker's.
        pictures: whose thread decodes and encodes.
        limits: of one picture.
        draining: whether the end is near.
    """

    def __init__(
        self,
        store: JobStore,
        painter: Painter,
        pictures: PictureDesk,
        limits: Limits,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store, self._painter, self._pictures = store, painter, pictures
        self._limits, self._draining = limits, draining
        self._watchers = 0

    async def submit(
        self, content: bytes, style: bytes, options: Mapping[str, Any], *, deadline: float | None = None
    ) -> Job:
        """A new job, which goes on whether or not anybody waits for it.

        Args:
            content, style: encoded pictures.
            options: fields of `OptimiseOptions`.
            deadline: of this call alone, on the monotonic clock.

        Raises:
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: of the picture that `image` names.
            ParameterInvalid: an option is out of its range.
            Overloaded: too many jobs wait.
            NotReady, StorageFailed, DeadlineExceeded: the service.
        """
        wanted = OptimiseOptions(**options)
        if self._draining():
            raise NotReady("the service is ending")
        sizes = {"content": wanted.size, "style": wanted.style_size or wanted.size * 3 // 2}
        given = {"content": content, "style": style}

        def shrunk() -> dict[str, bytes]:
            return {name: self._shrunk(name, given[name], size) for name, size in sizes.items()}

        pictures = await self._pictures.run(shrunk, deadline)
        job = await self._stored(
            lambda: self._store.submit(asdict(wanted), wanted.steps, pictures["content"], pictures["style"])
        )
        self._painter.wake()
        return job

    async def job(self, job: str) -> Job:
        """A job as it stands.

        Raises:
            JobUnknown: there is none of that id.
            StorageFailed: the disk.
        """
        return await self._stored(lambda: self._store.get(job))

    async def cancel(self, job: str) -> Job:
        """Cancels a job. When it returns the job's process is gone, if the machine is not too busy for that.

        Raises:
            JobUnknown: there is none of that id.
            JobFinished: it is over already.
            StorageFailed: the disk.
        """
        found = await self._stored(lambda: self._store.cancel(job))
        self._painter.wake()
        for _ in range(GONE):
            if not found.busy:
                break
            await asyncio.sleep(WATCH)  # its worker may be another one
            found = await self.job(job)
        return found

    async def result(self, job: str, kind: Format) -> bytes:
        """The encoded picture that a job made.

        Raises:
            JobUnfinished: it has not ended yet.
            JobFinished: it ended without one.
            JobUnknown, StorageFailed: as `job`.
        """
        found = await self.job(job)
        if not found.final:
            raise JobUnfinished(f"the job is {found.state}, step {found.step} of {found.steps}")
        if found.state is not State.SUCCEEDED:
            raise JobFinished(f"the job is {found.state}: there is no result")
        return await self._picture(job, RESULT, kind)

    async def preview(self, job: str, kind: Format) -> bytes:
        """The latest picture of a job, at the end its result.

        Raises:
            JobUnfinished: there is none yet.
            JobFinished: there will be none.
            JobUnknown, StorageFailed: as `job`.
        """
        found = await self.job(job)
        if found.state is State.SUCCEEDED:
            return await self._picture(job, RESULT, kind)
        if found.preview:
            return await self._picture(job, PREVIEW, kind)
        if found.final:
            raise JobFinished(f"the job is {found.state}: there is no preview")
        raise JobUnfinished(f"there is no preview yet at step {found.step} of {found.steps}")

    def watch(self, job: Job, after: int = -1) -> AsyncIterator[Job | None]:
        """A job as it changes: its state after each change that is seen, until it is over or the worker ends.

        Args:
            job: as it stands.
            after: the revision that is known already.

        Yields:
            The job, or None when nothing has changed for a quarter of a minute.

        Raises:
            Overloaded: too many watch already.
        """
        if self._watchers >= WATCHERS:
            raise Overloaded("too many clients watch their jobs", 5.0)
        return self._changes(job, after)

    async def _changes(self, job: Job, after: int) -> AsyncIterator[Job | None]:
        self._watchers += 1
        try:
            quiet = 0
            while True:
                if job.revision > after:
                    yield job
                    after, quiet = job.revision, 0
                if job.final or self._draining():
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
            self._watchers -= 1

    async def _picture(self, job: str, name: str, kind: Format) -> bytes:
        def work() -> bytes:
            try:
                data = self._store.path(job, name).read_bytes()
            except FileNotFoundError:
                raise JobUnknown("the job has expired") from None
            return data if kind == "png" else encode(decode(data).pixels, kind)

        return await self._pictures.run(work, None)

    async def _stored(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except (sqlite3.Error, OSError) as exc:
            logger.warning("jobs cannot be stored: %s", exc)
            raise StorageFailed("jobs cannot be stored at the moment") from exc

    def _shrunk(self, name: str, data: bytes, size: int) -> bytes:
        """A picture no larger than the job looks at, as a PNG: what is kept is small, and holds no EXIF."""
        try:
            image = decode(data, self._limits, min_side=size)
        except ModelError as exc:
            exc.image = name
            raise
        return encode(_within(image, size), "png")


def _within(image: Image, size: int) -> Any:
    scale = size / max(image.pixels.shape[:2])
    if scale >= 1:
        return image.pixels
    height, width = (max(1, round(side * scale)) for side in image.pixels.shape[:2])
    return resize(image.pixels, height, width, interpolation="bicubic")
