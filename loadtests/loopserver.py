"""One worker in a process of its own, of which more or less is there: what `looptime.py` measures.

    python -m loadtests.loopserver STAGE HTTP_PORT GRPC_PORT [--profile]

Serves until it is told to end (SIGTERM). With `--profile` it prints then in which functions its event loop
spent its time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import pstats
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from models import registry
from models.weights import Store, standard_catalogue
from service.app import Service
from service.engine.executor import make_executor
from service.engine.runner import Runner
from service.host.connections import ConnectionGuard
from service.rpc import server as rpc
from service.rpc.stubs import vision_pb2 as pb
from service.settings import Settings
from service.telemetry.log import write_in_threads
from service.telemetry.metrics import Metrics
from service.web.app import Application

STAGES: Final = ("floor", "transport", "service")
MODEL: Final = "lenet5"
JSON: Final = b"x" * 400
"""As long as the answer of five labels."""
REPLY: Final = pb.ClassifyReply(
    model=MODEL,
    image=pb.Size(width=28, height=28),
    labels=[pb.Label(index=index, label=str(index), score=0.1) for index in range(5)],
).SerializeToString()
SHOWN: Final = 30
"""Functions of a profile."""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that an application may do: takes the body in, sends bytes."""
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(JSON))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": JSON})


def echo_rpc() -> grpc.GenericRpcHandler:
    """The same over gRPC, of the kind that every method of the service is registered as."""

    async def answer(_: object, call: Any) -> bytes:
        await call.read()
        return REPLY

    handler: Any = grpc.stream_unary_rpc_method_handler(answer, None, None)
    return grpc.method_handlers_generic_handler("lynceus.v1.Vision", {"Classify": handler})


@contextlib.asynccontextmanager
async def served(stage: str, settings: Settings) -> AsyncIterator[ASGIApp]:
    """The application of a stage, and its gRPC server beside it."""
    if stage == "floor":
        server = grpc.aio.server()
        server.add_insecure_port(f"{settings.grpc_host}:{settings.grpc_port}")
        server.add_generic_rpc_handlers((echo_rpc(),))
        await server.start()
        yield echo
        await server.stop(1)
        return
    metrics = Metrics()
    pipeline = registry.build(MODEL, standard_catalogue(), Store(None))
    executor = make_executor(pipeline, settings)
    batch = settings.batch_limit(False)
    runner = Runner(pipeline, executor, metrics, max_batch=batch, max_queue=settings.max_queue)
    service = Service(settings, [runner], metrics)
    await service.start()
    if stage == "transport":
        kept: list[Any] = []
        run = service.run

        async def once(task: Any, images: Any, params: Any, context: Any) -> Any:
            if not kept:
                kept.append(await run(task, images, params, context))
            context.record(kept[0].timing)
            return kept[0]

        service.run = once  # type: ignore[method-assign]
    both = rpc.Server(service, shared=False)
    await both.start()
    yield Application(service)
    await both.stop(1)
    await service.stop()


async def serve(stage: str, http: int, grpc_port: int, profile: cProfile.Profile | None) -> None:
    """Serves until SIGTERM."""
    settings = Settings(workers=1, threads=1, grpc_port=grpc_port, grpc_host="127.0.0.1")
    loop = asyncio.get_running_loop()
    async with served(stage, settings) as app:
        ConnectionGuard(settings.header_timeout_seconds, settings.max_connections, loop).watch()
        config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        loop.add_signal_handler(signal.SIGTERM, lambda: setattr(server, "should_exit", True))
        if profile is not None:
            profile.enable()
        with socket.create_server(("127.0.0.1", http), backlog=64) as listening:
            await server.serve(sockets=[listening])
        if profile is not None:
            profile.disable()


def main() -> None:
    """Serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("http", type=int)
    parser.add_argument("grpc", type=int)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    profile = cProfile.Profile() if options.profile else None
    printed = sys.stdout
    write_in_threads()
    uvloop.run(serve(options.stage, options.http, options.grpc, profile))
    if profile is not None:
        pstats.Stats(profile, stream=printed).sort_stats("tottime").print_stats(SHOWN)


if __name__ == "__main__":
    main()
