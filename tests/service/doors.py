"""Both doors over one data plane, in this process: real networks, HTTP as ASGI, gRPC on a loopback port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import httpx

from models import registry
from models.image import Limits
from models.pipeline import Card, Pipeline, Task
from models.style.pipeline import StylePipeline
from models.style.transfer import ServedStyleNetwork
from models.weights import CATALOGUE, Catalogue, Store
from service.access import Access
from service.dataplane import DataPlane
from service.executor import TorchExecutor
from service.faces import FaceDesk
from service.inference.desk import InferenceDesk
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.pictures import PictureDesk
from service.rpc.server import Server
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from service.runner import Runner
from service.settings import Settings
from service.styles import StyleDesk
from service.tracing import Tracing
from service.web.app import make_app
from service.web.house import House
from tests.models.style.small import STYLES, random_network
from tests.server import free_port

T = TypeVar("T")


def pipeline(name: str) -> Pipeline:
    """A model of the catalogue, as it is served."""
    return registry.build(name, Catalogue((CATALOGUE,)), Store(None))


def style_pipeline() -> StylePipeline:
    """A narrow style network, untrained, on small canvases."""
    network = random_network()
    labels = tuple(style.name for style in STYLES)
    card = Card("styles", Task.STYLE, "Apache-2.0", "0" * 64, labels)
    return StylePipeline(card, ServedStyleNetwork(network), STYLES, buckets=((48, 64), (64, 64)))


class Doors:
    """What a test speaks to.

    Attributes:
        plane: behind both doors.
        metrics: where both count.
        address: of gRPC.
        stub: of `lynceus.v1.Vision`, blocking.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, tracing: Tracing | None = None
    ) -> None:
        self._loop = loop
        self._tracing = tracing
        self.settings = settings
        self.address = f"127.0.0.1:{settings.grpc_port}"
        self.metrics = Metrics()
        self.memory = MemoryBudget(settings.decode_memory_bytes)

    async def open(self, pipelines: Sequence[Pipeline]) -> None:
        settings = self.settings
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        tracing = self._tracing
        runners = [
            Runner(
                one,
                TorchExecutor(one.module, "cpu"),
                self.metrics,
                max_batch=2,
                max_queue=settings.max_queue,
                tracing=tracing,
            )
            for one in pipelines
        ]
        self.plane = DataPlane(runners, self.metrics, limits, 0, self.memory, tracing)
        faces = FaceDesk(self.plane)
        pictures = PictureDesk(self.plane)
        styles = StyleDesk(self.plane)
        keys = [key.get_secret_value() for key in settings.api_keys]
        access = Access(keys, concurrency=settings.key_concurrency)
        for runner in runners:
            await runner.start()
        inference = InferenceDesk(self.plane, faces, self.metrics, settings.max_images)
        house = House(self.plane, faces, pictures, styles, self.metrics, settings, access, inference, tracing)
        app = make_app(house)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test")
        self._server = Server(
            self.plane,
            faces,
            styles,
            inference,
            self.metrics,
            access,
            settings,
            self.memory,
            shared=False,
            tracing=tracing,
        )
        await self._server.start()

    async def close(self) -> None:
        await self._client.aclose()
        await self._server.stop(1)
        await self.plane.drain(1)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def http(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request over HTTP."""
        return self.run(self._client.request(method, path, **options))

    @property
    def stub(self) -> VisionStub:
        return VisionStub(self.channel)

    @property
    def channel(self) -> grpc.Channel:
        if not hasattr(self, "_channel"):
            self._channel = grpc.insecure_channel(self.address)
        return self._channel

    def counted(self, transport: str, task: str, code: str) -> float:
        labels = {"task": task, "transport": transport, "code": code}
        return self.metrics.registry.get_sample_value("lynceus_requests_total", labels) or 0.0


@contextmanager
def open_doors(
    pipelines: Sequence[Pipeline], *, tracing: Tracing | None = None, **settings: Any
) -> Iterator[Doors]:
    """Serves pipelines in a thread of its own until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="doors")
    thread.start()
    chosen = Settings(**{"grpc_port": free_port(), "grpc_host": "127.0.0.1"} | settings)
    doors = Doors(loop, chosen, tracing)
    try:
        doors.run(doors.open(pipelines))
        yield doors
        if hasattr(doors, "_channel"):
            doors._channel.close()
        doors.run(doors.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
