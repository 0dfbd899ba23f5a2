"""`grpc.health.v1.Health`: true to readiness and to the drain, for each service.

The protocol's page: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from service.dataplane import DataPlane

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
LOOK_EVERY = 0.25
"""Seconds between two looks for a watcher: a signal or a lost device tells nobody of itself."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the package has no types
    """Says SERVING while the data plane is ready.

    Args:
        plane: the data plane.
        services: full names; the empty name stands for the whole server.
        stopping: once set, watches end, which no client ends by itself.
    """

    def __init__(self, plane: DataPlane, services: Sequence[str], stopping: asyncio.Event) -> None:
        self._plane = plane
        self._services = {"", *services}
        self._stopping = stopping

    async def Check(  # noqa: N802
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        """The state now; NOT_FOUND for a service that is none of ours."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service named {request.service!r}")
        return pb.HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: pb.HealthCheckRequest, context: Context
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """The state now and whenever it changes; a service that is none of ours is SERVICE_UNKNOWN."""
        told = None
        while not self._stopping.is_set():
            now = self._status(request.service)
            if now != told:
                yield pb.HealthCheckResponse(status=now)
                told = now
            try:
                await asyncio.wait_for(self._stopping.wait(), LOOK_EVERY)
            except TimeoutError:
                continue

    def _status(self, service: str) -> int:
        answer = pb.HealthCheckResponse
        if service not in self._services:
            return int(answer.SERVICE_UNKNOWN)
        return int(answer.SERVING if self._plane.ready else answer.NOT_SERVING)
