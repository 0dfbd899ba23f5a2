"""What every route needs, made once by the composition root and found again through the request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.access import Access
from service.dataplane import DataPlane
from service.errors import DeadlineExceeded
from service.faces import FaceDesk
from service.inference.desk import InferenceDesk
from service.metrics import Metrics
from service.pictures import PictureDesk
from service.settings import Settings
from service.styles import StyleDesk
from service.web.call import deadline_of
from service.web.intake import read_body, read_images


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
    """

    plane: DataPlane
    faces: FaceDesk
    pictures: PictureDesk
    styles: StyleDesk
    metrics: Metrics
    settings: Settings
    access: Access
    inference: InferenceDesk

    async def images(self, request: Request, *fields: str) -> dict[str, list[bytes]]:
        """The request's images by field, within the settings' limits. See `intake.read_images`.

        Raises:
            DeadlineExceeded: the body was not there in time.
        """
        settings = self.settings
        async with self._in_time(request):
            return await read_images(
                request,
                fields,
                max_image=settings.max_image_bytes,
                max_body=settings.max_body_bytes,
                max_images=settings.max_images,
            )

    async def body(self, request: Request, most: int) -> bytes:
        """The request's body as it came, of at most so many bytes. See `intake.read_body`.

        Raises:
            DeadlineExceeded: it was not there in time.
        """
        async with self._in_time(request):
            return await read_body(request, most)

    def deadline(self, request: Request) -> float:
        """When the request must be done; see `call.deadline_of`."""
        return deadline_of(request, self.settings.timeout_seconds)

    @asynccontextmanager
    async def _in_time(self, request: Request) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.deadline(request) - time.monotonic()):
                yield
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the request was complete") from None


async def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


Home = Annotated[House, Depends(_house)]


async def admit(request: Request, house: Home) -> None:
    """What every route but the open ones depends on: a key, where keys are set.

    Raises:
        Unauthenticated: there is none that fits.
    """
    if house.access.required:
        house.access.check(request.headers.get("authorization"), request.headers.get("x-api-key"))
