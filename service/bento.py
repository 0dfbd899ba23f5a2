"""BentoML's view of the service: a worker process's start, readiness, drain and end.

    bentoml serve service.bento:Lynceus

BentoML hosts the process: packaging, worker processes, health routes, signals. Its tracing, metrics and
access log are off, since they cost more than half of the requests per second; this service has its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import ModelError
from models.weights import Store, standard_catalogue
from service.host.accept import share_fairly
from service.host.connections import ConnectionGuard, raise_open_files
from service.host.gpus import claim, gpus
from service.settings import Settings

if TYPE_CHECKING:
    from service.app import Service
    from service.rpc.server import Server

logger = logging.getLogger(__name__)

SETTINGS = Settings()
HEALTH = ("/livez", "/readyz", "/healthz")
GPUS = len(gpus(SETTINGS.device, os.environ))  # without torch, which would cost this process 600 MB
WORKERS = SETTINGS.worker_count(GPUS)


class Hosted(bentoml.Service[Any]):
    """A BentoML service whose requests go straight to the application.

    BentoML answers the health routes and manages the process. Its five layers of middleware would cost
    each request a sixth of a millisecond, and one of them leaves a timer pending until its timeout.
    """

    app: ASGIApp | None = None

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The ASGI application that a worker runs."""
        host = super().to_asgi(is_main)

        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            ours = scope["type"] == "http" and scope["path"] not in HEALTH
            await (self.app or host if ours else host)(scope, receive, send)

        return route


@bentoml.service(
    name="lynceus",
    service_class=Hosted,
    workers=WORKERS,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": [".*"]},
)
class Lynceus:
    """One worker process."""

    service: Service | None = None
    server: Server | None = None

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once, before there are workers: a wrong model or file ends the server with one line and status 1.

        Each worker verifies what it loads again; but a worker that dies is restarted for ever. Models of an
        operator's own files are also built and run once, in a process of its own, since that takes torch.
        """
        try:
            catalogue = standard_catalogue(SETTINGS.catalogue)
            store = Store(SETTINGS.weights_dir)
            for name in SETTINGS.models:
                store.originals(catalogue[name])
        except ModelError as error:
            sys.exit(f"lynceus cannot start: {error}")
        own = [name for name in SETTINGS.models if catalogue[name].of_operator]
        if own:
            code = str(Path(__file__).resolve().parents[1])
            tried = subprocess.run(
                [sys.executable, "-m", "service.check", *own],
                env={**os.environ, "PYTHONPATH": code},
                stdout=subprocess.PIPE,
                text=True,
            )
            if tried.returncode:
                told = tried.stdout.strip() or f"the check of {', '.join(own)} ended with {tried.returncode}"
                sys.exit(f"lynceus cannot start: {told}")
        from service.host.supervisor import watch_workers  # circus, which a worker does not need

        watch_workers()

    @bentoml.on_startup
    async def start(self) -> None:
        """Loads, verifies and warms every model; a failure ends the worker."""
        claim(SETTINGS.device, bentoml.server_context.worker_index or 1, os.environ)
        from service.app import build  # torch, which looks for its GPU now
        from service.rpc.server import Server
        from service.web.app import Application

        logging.getLogger("service").setLevel(SETTINGS.log_level)
        connections = raise_open_files(SETTINGS.max_connections, 1 + bool(SETTINGS.grpc_port))
        if connections < SETTINGS.max_connections:
            logger.warning("the limit of open files allows %d connections of each kind", connections)
        layout = {"workers": WORKERS, "slots": SETTINGS.slot_count(GPUS)}  # it sees only its own GPU
        service = build(SETTINGS.model_copy(update={**layout, "max_connections": connections}))
        app = Application(service)
        await service.start()
        if SETTINGS.grpc_port:
            self.server = Server(service, shared=WORKERS > 1)
            await self.server.start()
        cast(Hosted, Lynceus).app = app
        self.service = service
        self._drain_on(signal.SIGTERM)
        loop = asyncio.get_running_loop()  # on which uvicorn listens when this returns
        if WORKERS > 1:
            share_fairly(loop)
        ConnectionGuard(SETTINGS.header_timeout_seconds, connections, loop).watch()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Runs when every request has been answered."""
        if self.service is None:
            return
        self.service.engine.draining = True
        async with asyncio.TaskGroup() as group:  # at once: the time until SIGKILL is one for all
            group.create_task(self.service.stop_jobs())
            if self.server is not None:
                group.create_task(self.server.stop(SETTINGS.timeout_seconds))
        await self.service.stop()

    async def __is_alive__(self) -> bool:
        return self.service is None or self.service.engine.alive

    async def __is_ready__(self) -> bool:
        return self.service is not None and self.service.engine.ready

    def _drain_on(self, number: signal.Signals) -> None:
        """Delays the stop after the signal: not ready, but still answering, until no request is under way."""
        assert self.service is not None  # noqa: S101
        engine = self.service.engine
        then: Any = signal.getsignal(number)
        loop = asyncio.get_running_loop()

        def begin(signum: int, frame: FrameType | None) -> None:
            if not engine.draining:
                engine.draining = True
                logger.info("draining for %.1f s", SETTINGS.drain_seconds)
                loop.call_soon_threadsafe(loop.call_later, SETTINGS.drain_seconds, then, signum, None)

        signal.signal(number, begin)
