"""`grpc.health.v1.Health`: reports readiness and the drain, for each service.

The protocol's page: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from models.errors import echoed
from service.engine.engine import Engine
from service.errors import NotFound
from service.rpc.context import Call

LOOK_EVERY = 0.25
"""Seconds between two checks of readiness: a signal or a lost device raises no event."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the package has no types
    """Says SERVING while every model is ready.

    Args:
        engine: of the worker.
        services: full names; the empty name stands for the whole server.
        stopping: once set, watches end, which no client ends by itself.
    """

    def __init__(self, engine: Engine, services: Sequence[str], stopping: asyncio.Event) -> None:
        self._engine = engine
        self._services = {"", *services}
        self._stopping = stopping
        self._pause: asyncio.Task[None] | None = None

    async def Check(  # noqa: N802
        self, request: pb.HealthCheckRequest, context: Call
    ) -> pb.HealthCheckResponse:
        """The state now.

        Raises:
            NotFound: an unknown service.
        """
        if request.service not in self._services:
            raise NotFound(f"no service named {echoed(request.service)}")
        return pb.HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: pb.HealthCheckRequest, context: Call
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """The state now and whenever it changes; an unknown service is SERVICE_UNKNOWN."""
        sent = None
        while not self._stopping.is_set():
            now = self._status(request.service)
            if now != sent:
                yield pb.HealthCheckResponse(status=now)
                sent = now
            if self._pause is None or self._pause.done():  # one timer for all watchers
                self._pause = asyncio.create_task(self._wait())
            await asyncio.shield(self._pause)

    def _status(self, service: str) -> int:
        answer = pb.HealthCheckResponse
        if service not in self._services:
            return int(answer.SERVICE_UNKNOWN)
        return int(answer.SERVING if self._engine.ready else answer.NOT_SERVING)

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), LOOK_EVERY)
