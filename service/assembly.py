"""What a worker is made of: settings -> catalogue -> pipelines -> runners -> data plane -> HTTP and gRPC.

Only `service.bento` imports this, and only in a worker: it pulls in torch, which the process that watches
over the workers does not need.
"""

from __future__ import annotations

import torch
from starlette.types import ASGIApp

from models import zoo
from models.image import Limits
from models.weights import CATALOGUE, Catalogue, Store
from service import metrics as measuring
from service.access import Access
from service.dataplane import DataPlane
from service.executor import make_executor, pick_device
from service.faces import FaceDesk
from service.inference.desk import InferenceDesk
from service.metrics import Metrics
from service.pictures import PictureDesk
from service.rpc.server import Server
from service.runner import Runner
from service.settings import Settings
from service.styles import StyleDesk
from service.web.app import make_app
from service.web.house import House


class Assembly:
    """One worker's whole service.

    Args:
        settings: what to serve and how.

    Raises:
        ModelUnknown, WeightsError: the configuration or a file is wrong.
        ValueError: a device or an executor that is not there, or a file of API keys without any.

    Attributes:
        plane: the data plane; readiness is its.
        app: the HTTP API.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        cuda = pick_device(settings.device).startswith("cuda")
        torch.set_num_threads(settings.thread_count(cuda))
        measuring.forget_dead_workers()
        metrics = Metrics()
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        runners = _runners(settings, metrics, settings.batch_limit(cuda))
        self.plane = DataPlane(runners, metrics, limits, settings.decoder_count(cuda))
        faces = FaceDesk(self.plane)
        self._pictures = PictureDesk(self.plane, faces, limits)
        styles = StyleDesk(self.plane, self._pictures)
        access = Access([key.get_secret_value() for key in settings.api_keys], settings.api_keys_file)
        inference = InferenceDesk(self.plane, faces, metrics, settings.max_images)
        self.app: ASGIApp = make_app(
            House(self.plane, faces, self._pictures, styles, metrics, settings, access, inference)
        )
        self._server: Server | None = None
        if settings.grpc_port:
            shared = settings.worker_count(cuda) > 1
            self._server = Server(
                self.plane, faces, styles, inference, metrics, access, settings, shared=shared
            )

    async def start(self) -> None:
        """Warms every model, then listens for gRPC (HTTP is the host's); ready when it returns."""
        for runner in self.plane.runners.values():
            await runner.start()
        if self._server is not None:
            await self._server.start()

    async def stop(self) -> None:
        """Finishes what is left and lets go of the threads; every HTTP request has been answered by now."""
        self.plane.draining = True
        if self._server is not None:
            await self._server.stop(self._settings.timeout_seconds)
        await self.plane.drain(self._settings.timeout_seconds)
        self._pictures.close()
        measuring.leave()


def _runners(settings: Settings, metrics: Metrics, max_batch: int) -> list[Runner]:
    """A runner for every configured model, each file verified."""
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
                max_batch=max_batch,
                max_queue=settings.max_queue,
                slots=settings.slots,
                linger=settings.linger_ms / 1000,
            )
        )
    return runners
