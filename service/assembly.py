"""What a worker is made of: settings -> catalogue -> pipelines -> runners -> data plane -> HTTP and gRPC.

Only `service.bento` imports this, and only in a worker: it pulls in torch, which the process that watches
over the workers does not need.
"""

from __future__ import annotations

import asyncio

import torch
from starlette.types import ASGIApp

from models import registry
from models.image import Limits
from models.weights import CATALOGUE, Catalogue, Store
from service import metrics as measuring
from service.access import Access
from service.dataplane import DataPlane
from service.executor import make_executor, pick_device
from service.faces import FaceDesk
from service.inference.desk import InferenceDesk
from service.jobs import JobDesk
from service.jobstore import JobStore
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.nvml import make_meter
from service.painter import Network, Painter
from service.pictures import PictureDesk
from service.roll import Roll
from service.rpc.server import Server
from service.runner import Runner
from service.settings import Settings
from service.styles import StyleDesk
from service.tracing import Tracing, make_tracing
from service.web.app import make_app
from service.web.house import House


class Assembly:
    """One worker's whole service.

    Args:
        settings: what to serve and how.

    Raises:
        ModelUnknown, WeightsError: the configuration or a file is wrong.
        ValueError: a device, an executor or an exporter of traces that is not there, or a file of API keys
            without any.

    Attributes:
        plane: the data plane; readiness is its.
        app: the HTTP API.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        device = pick_device(settings.device)
        cuda = device.startswith("cuda")
        torch.set_num_threads(settings.thread_count(cuda))
        measuring.forget_dead_workers()
        metrics = Metrics()
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        self._meter = make_meter(device, metrics) if cuda else None
        tracing = self._tracing = make_tracing(settings.tracing)
        runners = _runners(settings, metrics, settings.batch_limit(cuda), tracing)
        memory = MemoryBudget(settings.decode_memory_bytes)
        self.plane = DataPlane(runners, metrics, limits, settings.decoder_count(cuda), memory, tracing)
        faces = FaceDesk(self.plane)
        styles = StyleDesk(self.plane)
        keys = [key.get_secret_value() for key in settings.api_keys]
        access = Access(keys, settings.api_keys_file, concurrency=settings.key_concurrency)
        inference = InferenceDesk(self.plane, faces, metrics, settings.max_images)
        self.app: ASGIApp = make_app(
            House(
                self.plane,
                faces,
                PictureDesk(self.plane),
                styles,
                metrics,
                settings,
                access,
                inference,
                tracing,
                self._jobs(metrics),
            )
        )
        self._server: Server | None = None
        if settings.grpc_port:
            shared = settings.worker_count(cuda) > 1
            self._server = Server(
                self.plane,
                faces,
                styles,
                inference,
                metrics,
                access,
                settings,
                memory,
                shared=shared,
                tracing=tracing,
            )

    async def start(self) -> None:
        """Warms every model, then listens for gRPC (HTTP is the host's); ready when it returns."""
        for runner in self.plane.runners.values():
            await runner.start()
        if self._meter is not None:
            self._meter.start()
        if self._server is not None:
            await self._server.start()
        if self._painter is not None:
            await asyncio.to_thread(self._painter.start)

    async def stop(self) -> None:
        """Finishes what is left and lets go of the threads; every HTTP request has been answered by now."""
        self.plane.draining = True
        async with asyncio.TaskGroup() as group:  # at once: the time until SIGKILL is one for all
            if self._painter is not None:
                group.create_task(asyncio.to_thread(self._painter.stop))
            if self._server is not None:
                group.create_task(self._server.stop(self._settings.timeout_seconds))
        await self.plane.drain(self._settings.timeout_seconds)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        if self._meter is not None:
            self._meter.stop()
        measuring.leave()

    def _jobs(self, metrics: Metrics) -> JobDesk | None:
        """Style jobs, where a served model is the network that their costs look through."""
        settings = self._settings
        self._painter: Painter | None = None
        network = _network(settings)
        if network is None:
            return None
        store = JobStore(
            settings.state_folder,
            max_jobs=settings.max_jobs,
            max_waiting=settings.max_waiting_jobs,
            expiry=settings.job_expiry_seconds,
        )
        self._painter = Painter(
            store,
            Roll(settings.state_folder / "workers"),
            network,
            metrics,
            threads=settings.job_threads,
            timeout=settings.job_timeout_seconds,
            accepting=lambda: not self.plane.draining,
        )
        return JobDesk(store, self._painter, self.plane, timeout=settings.job_timeout_seconds)


def _network(settings: Settings) -> Network | None:
    """The first served EfficientNet-Lite0; its file has been verified when its runner was made."""
    catalogue, store = _weights(settings)
    for name in settings.models:
        entry = catalogue[name]
        if entry.builder == "efficientnet_lite0":
            return Network(store.files(entry)["weights"], entry.files["weights"].sha256)
    return None


def _weights(settings: Settings) -> tuple[Catalogue, Store]:
    catalogue = Catalogue((CATALOGUE, *([settings.catalogue] if settings.catalogue else [])))
    return catalogue, Store(settings.weights_dir)


def _runners(settings: Settings, metrics: Metrics, max_batch: int, tracing: Tracing | None) -> list[Runner]:
    """A runner for every configured model, each file verified."""
    catalogue, store = _weights(settings)
    runners = []
    for name in settings.models:
        pipeline = registry.build(name, catalogue, store)
        most = catalogue[name].max_batch or max_batch
        runners.append(
            Runner(
                pipeline,
                make_executor(pipeline, settings),
                metrics,
                max_batch=min(max_batch, most),
                max_queue=settings.max_queue,
                slots=settings.slots,
                linger=settings.linger_ms / 1000,
                tracing=tracing,
            )
        )
    return runners
