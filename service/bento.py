"""The composition root: settings -> catalogue -> pipelines -> runners -> data plane -> HTTP, and their life.

    bentoml serve service.bento:Lynceus

BentoML hosts the process: packaging, worker processes, health routes, signals. Its tracing, metrics and
access log are off, since they cost more than half of the requests per second; ours replace them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from types import FrameType
from typing import Any

import bentoml
import torch
from starlette.types import ASGIApp, Receive, Scope, Send

from models import zoo
from models.image import Limits
from models.weights import CATALOGUE, Catalogue, Store
from service import metrics as measuring
from service.dataplane import DataPlane
from service.executor import make_executor, pick_device
from service.faces import FaceDesk
from service.metrics import Metrics
from service.pictures import PictureDesk
from service.runner import Runner
from service.settings import Settings
from service.web.app import make_app
from service.web.house import House

logger = logging.getLogger(__name__)

SETTINGS = Settings()
CUDA = pick_device(SETTINGS.device).startswith("cuda")


def make_runners(settings: Settings, metrics: Metrics) -> list[Runner]:
    """Builds a runner for every configured model, each file verified.

    Raises:
        ModelUnknown, WeightsError: the configuration or a file is wrong.
    """
    catalogue = Catalogue((CATALOGUE, *([settings.catalogue] if settings.catalogue else [])))
    store = Store(settings.weights_dir)
    runners = []
    for name in settings.models:
        pipeline = zoo.build(name, catalogue, store)
        runners.append(
            Runner(
                pipeline,
                make_executor(pipeline, settings),
                metrics,
                max_batch=settings.batch_limit(CUDA),
                max_queue=settings.max_queue,
                slots=settings.slots,
                linger=settings.linger_ms / 1000,
            )
        )
    return runners


class Door:
    """The mounted application; the worker fills it when its models are loaded.

    It is no Starlette, so that BentoML's mount asks it for every path instead of matching the routes twice.
    """

    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None, "requests are accepted only after the start"  # noqa: S101
        await self.app(scope, receive, send)


DOOR = Door()


@bentoml.service(
    name="lynceus",
    workers=SETTINGS.worker_count(CUDA),
    traffic={"timeout": 86400},  # ours is LYNCEUS_TIMEOUT_SECONDS
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": [".*"]},
)
@bentoml.asgi_app(DOOR, path="/")
class Lynceus:
    """One worker process."""

    plane: DataPlane | None = None
    pictures: PictureDesk | None = None

    @bentoml.on_startup
    async def start(self) -> None:
        """Loads, verifies and warms every model; a failure ends the worker."""
        logging.getLogger("service").setLevel(SETTINGS.log_level)
        torch.set_num_threads(SETTINGS.thread_count(CUDA))
        measuring.forget_dead_workers()
        metrics = Metrics()
        runners = make_runners(SETTINGS, metrics)
        limits = Limits(SETTINGS.max_image_bytes, SETTINGS.max_image_pixels)
        plane = DataPlane(runners, metrics, limits, SETTINGS.decoder_count(CUDA))
        for runner in runners:
            await runner.start()
        faces = FaceDesk(plane)
        self.pictures = PictureDesk(plane, faces, limits)
        DOOR.app = make_app(House(plane, faces, self.pictures, metrics, SETTINGS))
        self.plane = plane
        self._drain_on(signal.SIGTERM)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Runs when every request has been answered."""
        if self.plane is not None:
            await self.plane.drain(SETTINGS.timeout_seconds)
        if self.pictures is not None:
            self.pictures.close()
        measuring.leave()

    async def __is_ready__(self) -> bool:
        return self.plane is not None and self.plane.ready

    def _drain_on(self, number: signal.Signals) -> None:
        """Puts a pause between the signal and the end: not ready, yet answering, until nobody asks."""
        then: Any = signal.getsignal(number)
        loop = asyncio.get_running_loop()

        def begin(signum: int, frame: FrameType | None) -> None:
            if self.plane is None or self.plane.draining:
                return
            self.plane.draining = True
            logger.info("draining for %.1f s", SETTINGS.drain_seconds)
            loop.call_soon_threadsafe(loop.call_later, SETTINGS.drain_seconds, then, signum, None)

        signal.signal(number, begin)


os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
