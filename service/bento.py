"""BentoML's view of the service: a worker process's start, readiness, drain and end.

    bentoml serve service.bento:Lynceus

BentoML hosts the process: packaging, worker processes, health routes, signals. Its tracing, metrics and
access log are off, since they cost more than half of the requests per second; ours replace them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from service.accept import share_fairly
from service.settings import Settings

if TYPE_CHECKING:
    from service.assembly import Assembly

logger = logging.getLogger(__name__)

SETTINGS = Settings()
HEALTH = ("/livez", "/readyz", "/healthz")


def _on_gpu() -> bool:
    """Whether workers will find a GPU; told without torch, which would cost this process 600 MB."""
    if SETTINGS.device == "auto":
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))
    return SETTINGS.device.startswith("cuda")


WORKERS = SETTINGS.worker_count(_on_gpu())


class Hosted(bentoml.Service[Any]):
    """A BentoML service whose requests go straight to our application.

    BentoML answers the health routes and leads the process's life. Its five layers of middleware would cost
    each request a sixth of a millisecond, and one of them leaves a timer behind for as long as its timeout.
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

    assembly: Assembly | None = None

    @bentoml.on_startup
    async def start(self) -> None:
        """Loads, verifies and warms every model; a failure ends the worker."""
        from service.assembly import Assembly

        logging.getLogger("service").setLevel(SETTINGS.log_level)
        assembly = Assembly(SETTINGS)
        await assembly.start()
        cast(Hosted, Lynceus).app = assembly.app
        self.assembly = assembly
        self._drain_on(signal.SIGTERM)
        if WORKERS > 1:
            share_fairly(asyncio.get_running_loop())  # uvicorn listens when this returns

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Runs when every request has been answered."""
        if self.assembly is not None:
            await self.assembly.stop()

    async def __is_alive__(self) -> bool:
        return self.assembly is None or self.assembly.plane.alive

    async def __is_ready__(self) -> bool:
        return self.assembly is not None and self.assembly.plane.ready

    def _drain_on(self, number: signal.Signals) -> None:
        """Puts a pause between the signal and the end: not ready, yet answering, until nobody asks."""
        assert self.assembly is not None  # noqa: S101
        plane = self.assembly.plane
        then: Any = signal.getsignal(number)
        loop = asyncio.get_running_loop()

        def begin(signum: int, frame: FrameType | None) -> None:
            if not plane.draining:
                plane.draining = True
                logger.info("draining for %.1f s", SETTINGS.drain_seconds)
                loop.call_soon_threadsafe(loop.call_later, SETTINGS.drain_seconds, then, signum, None)

        signal.signal(number, begin)
