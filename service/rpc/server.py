"""The gRPC transport: a grpc.aio server in the worker's own event loop, over the same service as HTTP.

Several workers listen on one port, each with a socket of its own (SO_REUSEPORT): the kernel distributes the
connections. A gRPC client keeps to one connection, and so to one worker; several channels reach several.
"""

from __future__ import annotations

import asyncio
import logging

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.app import Service
from service.rpc.health import Health
from service.rpc.inference import SERVICE as INFERENCE
from service.rpc.inference import TASKS as INFERENCE_TASKS
from service.rpc.inference import Inference
from service.rpc.interceptor import RequestInterceptor
from service.rpc.vision import SERVICE as VISION
from service.rpc.vision import Vision, bounds, labels
from service.rpc.wire import FRAMING
from service.settings import Settings

logger = logging.getLogger(__name__)


LOOKAHEAD = 512 * 1024
"""Bytes of a call that are taken in before its message is read: most images come without a pause."""

AGE = 300
"""Seconds after which a connection takes no more calls; those under way go on for as long as they need."""


class Server:
    """Every gRPC service of one worker.

    Args:
        service: that answers.
        shared: other workers listen on the port too.

    Attributes:
        port: that it listens on, once started.
    """

    def __init__(self, service: Service, *, shared: bool) -> None:
        self._settings = settings = service.settings
        self.port = 0
        services = vision, tensors = VISION.full_name, INFERENCE.full_name
        tasks = {f"/{vision}/{method}": task for method, task in labels().items()}
        tasks |= {f"/{tensors}/{method}": task for method, task in INFERENCE_TASKS.items()}
        self._server = grpc.aio.server(
            interceptors=(RequestInterceptor(service, tasks, bounds()),), options=_options(settings, shared)
        )
        self._stopping = stopping = asyncio.Event()
        own = (Vision(service, stopping).handlers(), Inference(service, stopping).handlers())
        self._server.add_generic_rpc_handlers(own)
        health_pb2_grpc.add_HealthServicer_to_server(Health(service.engine, services, stopping), self._server)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((*services, health, reflection.SERVICE_NAME), self._server)

    async def start(self) -> None:
        """Listens.

        Raises:
            RuntimeError: the port is taken.
            OSError: a file of the certificate cannot be read.
        """
        settings = self._settings
        host = settings.grpc_host.strip("[]")
        address = f"[{host}]:{settings.grpc_port}" if ":" in host else f"{host}:{settings.grpc_port}"
        if settings.grpc_tls_cert is not None and settings.grpc_tls_key is not None:
            pair = (settings.grpc_tls_key.read_bytes(), settings.grpc_tls_cert.read_bytes())
            credentials = grpc.ssl_server_credentials([pair])
            self.port = self._server.add_secure_port(address, credentials)
        else:
            self.port = self._server.add_insecure_port(address)
        await self._server.start()
        logger.info("gRPC on %s:%d", settings.grpc_host, self.port)

    async def stop(self, grace: float) -> None:
        """Refuses new calls and lets those under way finish for so long; streams accept no more frames."""
        self._stopping.set()
        await self._server.stop(grace)


def _options(settings: Settings, shared: bool) -> list[tuple[str, int]]:
    return [
        # the largest HTTP body's size; an image's own limit is the decoder's, as over HTTP
        ("grpc.max_receive_message_length", settings.max_body_bytes + FRAMING),
        # how much of a message comes before it is asked for: without this as much as the network holds, for
        # every stream, be it read or not
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD),
        # what is compressed is inflated by `Method`, within bounds
        ("grpc.per_message_decompression", 0),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(shared)),
        # bounds of a connection: an idle one is closed, an active one gets a limited number of calls
        ("grpc.server_handshake_timeout_ms", round(settings.header_timeout_seconds * 1000)),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_connection_idle_ms", round(settings.grpc_idle_seconds * 1000)),
        # now and then a client connects anew, or all might stay where an overload has left them
        ("grpc.max_connection_age_ms", AGE * 1000),
        ("grpc.max_concurrent_streams", settings.grpc_streams),
        # keep-alive pings detect clients that have vanished; those of clients are accepted
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
