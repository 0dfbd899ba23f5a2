"""Both transports over one service, in this process: real networks, HTTP as ASGI, gRPC on a loopback port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import httpx

from models import registry
from models.pipeline import Card, Kind, Pipeline
from models.style.pipeline import StylePipeline
from models.style.transfer import ServedStyleNetwork
from models.weights import CATALOGUE, Catalogue, Store
from service.app import Service
from service.engine.executor import Executor
from service.engine.runner import Runner
from service.engine.torch_executor import TorchExecutor
from service.rpc.server import Server
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing
from service.web.app import Application
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
    card = Card("styles", Kind.STYLE, "Apache-2.0", "0" * 64, labels)
    return StylePipeline(card, lambda: ServedStyleNetwork(network), STYLES, buckets=((48, 64), (64, 64)))


class Transports:
    """What a test speaks to.

    Attributes:
        service: behind both.
        engine: of the service.
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

    async def open(self, pipelines: Sequence[Pipeline], executor: Callable[[Pipeline], Executor]) -> None:
        settings = self.settings
        runners = [
            Runner(
                one,
                executor(one),
                self.metrics,
                max_batch=one.batch or 2,
                max_queue=settings.max_queue,
                tracing=self._tracing,
            )
            for one in pipelines
        ]
        self.service = Service(settings, runners, self.metrics, tracing=self._tracing)
        self.engine = self.service.engine
        await self.service.start()
        transport = httpx.ASGITransport(Application(self.service), raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test")
        self._server = Server(self.service, shared=False)
        await self._server.start()

    async def close(self) -> None:
        await self._client.aclose()
        await self._server.stop(1)
        await self.engine.drain(1)

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


def in_torch(pipeline: Pipeline) -> Executor:
    return TorchExecutor(pipeline, "cpu")


@contextmanager
def open_transports(
    pipelines: Sequence[Pipeline],
    *,
    tracing: Tracing | None = None,
    executor: Callable[[Pipeline], Executor] = in_torch,
    **settings: Any,
) -> Iterator[Transports]:
    """Serves pipelines in a thread of its own until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="transports")
    thread.start()
    chosen = Settings(
        **{"grpc_port": free_port(), "grpc_host": "127.0.0.1", "max_wait_seconds": 60} | settings
    )
    transports = Transports(loop, chosen, tracing)
    try:
        transports.run(transports.open(pipelines, executor))
        yield transports
        if hasattr(transports, "_channel"):
            transports._channel.close()
        transports.run(transports.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
