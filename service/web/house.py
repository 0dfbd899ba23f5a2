"""What every route needs, made once by the composition root and found again through the request."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.access import Access
from service.dataplane import DataPlane
from service.errors import DeadlineExceeded
from service.faces import FaceDesk
from service.metrics import Metrics
from service.pictures import PictureDesk
from service.settings import Settings
from service.web.call import deadline_of
from service.web.intake import read_images


@dataclass(frozen=True, slots=True)
class House:
    """The service behind the HTTP door.

    Attributes:
        plane: the data plane.
        faces: what it says of faces.
        pictures: what it draws.
        metrics: for `/metrics`.
        settings: the limits of a request.
        access: who may ask.
    """

    plane: DataPlane
    faces: FaceDesk
    pictures: PictureDesk
    metrics: Metrics
    settings: Settings
    access: Access

    async def images(self, request: Request, *fields: str) -> dict[str, list[bytes]]:
        """The request's images by field, within the settings' limits. See `intake.read_images`.

        Raises:
            DeadlineExceeded: the body was not there in time.
        """
        settings = self.settings
        left = self.deadline(request) - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await read_images(
                    request,
                    fields,
                    max_image=settings.max_image_bytes,
                    max_body=settings.max_body_bytes,
                    max_images=settings.max_images,
                )
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the request was complete") from None

    def deadline(self, request: Request) -> float:
        """When the request must be done; see `call.deadline_of`."""
        return deadline_of(request, self.settings.timeout_seconds)


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
