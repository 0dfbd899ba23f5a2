"""What every route needs, made once by the composition root and found again through the request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Request

from service.access import Access
from service.dataplane import DataPlane
from service.errors import DeadlineExceeded, RequestTimeout
from service.faces import FaceDesk
from service.inference.desk import InferenceDesk
from service.jobs import JobDesk
from service.metrics import Metrics
from service.pictures import PictureDesk
from service.settings import Settings
from service.styles import StyleDesk
from service.tracing import Tracing
from service.web.call import call_of, deadline_of, while_connected
from service.web.intake import Progress, check_json, images_of, images_plan, read_body

T = TypeVar("T")

INLINE: Final = 64 * 1024
"""Bytes of a body that are parsed in the event loop, in a millisecond; more in a decoding thread."""


@dataclass(frozen=True, slots=True)
class House:
    """The service behind the HTTP door.

    Attributes:
        plane: the data plane.
        faces: what it says of faces.
        pictures: what it draws.
        styles: what it paints.
        metrics: for `/metrics`.
        settings: the limits of a request.
        access: who may ask.
        inference: the Open Inference Protocol.
        tracing: where spans go, if anywhere.
        jobs: long work; None where there is no network for it.
    """

    plane: DataPlane
    faces: FaceDesk
    pictures: PictureDesk
    styles: StyleDesk
    metrics: Metrics
    settings: Settings
    access: Access
    inference: InferenceDesk
    tracing: Tracing | None = None
    jobs: JobDesk | None = None

    async def images(self, request: Request, *fields: str) -> dict[str, list[bytes]]:
        """The request's images by field, within the settings' limits. See `intake.images_plan`.

        Raises:
            DeadlineExceeded: the body was not there in time.
            RequestTimeout: its sender paused for too long.
            OutOfMemory: the bodies on their way have no more room.
        """
        settings = self.settings
        plan = images_plan(
            request.headers,
            fields,
            max_image=settings.max_image_bytes,
            max_body=settings.max_body_bytes,
            max_images=settings.max_images,
        )
        body = await self.body(request, plan.most)
        if plan.raw:
            return {fields[0]: [body]}
        return await self.parsed(request, body, partial(images_of, body, plan))

    async def body(self, request: Request, most: int) -> bytes:
        """The request's body as it came, of at most so many bytes. See `intake.read_body`.

        Its memory is reserved as it comes, until the request has ended.

        Raises:
            DeadlineExceeded: it was not there in time.
            RequestTimeout: its sender paused for too long.
            OutOfMemory: the bodies on their way have no more room.
        """
        async with self._in_time(request) as progress:
            return await read_body(request, progress, most)

    async def json(self, request: Request, most: int) -> bytes:
        """The request's body, which must be declared as JSON; raises as `body` does.

        Raises:
            MediaTypeUnsupported: it is not declared as JSON.
        """
        check_json(request.headers)
        return await self.body(request, most)

    async def parsed(self, request: Request, body: bytes, work: Callable[[], T]) -> T:
        """What a parser makes of a body: at once if that is small, else in a decoding thread.

        Raises:
            DeadlineExceeded: it was not done in time.
        """
        if len(body) <= INLINE:
            return work()
        async with while_connected(request):
            return await self.aside(work, self.deadline(request))

    async def aside(self, work: Callable[[], T], deadline: float) -> T:
        """Work that grows with a body, in a decoding thread; called off if it has not begun in time.

        Raises:
            DeadlineExceeded: it was not done by the deadline (monotonic seconds).
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self.plane.in_decoder(work)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the request was parsed") from None

    def reserve(self, request: Request, size: int) -> None:
        """Counts so many more bytes as the request's, until it has ended.

        Raises:
            OutOfMemory: the bodies on their way have no more room.
        """
        call = call_of(request)
        if call.body is None:
            call.body = self.plane.memory.body()
        call.body.grow(size)

    def deadline(self, request: Request) -> float:
        """When the request must be done; see `call.deadline_of`."""
        return deadline_of(request, self.settings.timeout_seconds)

    @asynccontextmanager
    async def _in_time(self, request: Request) -> AsyncIterator[Progress]:
        """Ends the reading of a body at the request's deadline, or when nothing more of it comes.

        Gives what is to be called with the number of bytes when some have come, before they are kept.
        """
        deadline, pause = self.deadline(request), self.settings.body_timeout_seconds
        loop = asyncio.get_running_loop()
        paused = False  # whether the pause is what ends first

        def seconds() -> float:
            nonlocal paused
            left = deadline - time.monotonic()
            paused = pause < left
            return pause if paused else left

        try:
            async with asyncio.timeout(seconds()) as limit:

                def progress(size: int) -> None:
                    self.reserve(request, size)
                    limit.reschedule(loop.time() + seconds())

                yield progress
        except TimeoutError:
            if paused:
                raise RequestTimeout(f"nothing more of the body came in {pause:g} s") from None
            raise DeadlineExceeded("the deadline passed before the request was complete") from None


async def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


Home = Annotated[House, Depends(_house)]


async def admit(request: Request, house: Home) -> None:
    """What every route but the open ones depends on: a key, where keys are set.

    Raises:
        Unauthenticated: there is none that fits.
        KeyBusy: it has as many requests under way as it may.
    """
    if house.access.required:
        headers = request.headers
        call_of(request).key = house.access.enter(headers.get("authorization"), headers.get("x-api-key"))
