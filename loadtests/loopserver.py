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
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from models import registry
from models.classification.result import ClassifyOptions
from models.image import decode
from models.pipeline import Prepared
from models.weights import Store, standard_catalogue
from service.app import Service
from service.engine.executor import make_executor
from service.engine.runner import Runner
from service.engine.threads import Threads
from service.host.connections import ConnectionGuard
from service.rpc import server as rpc
from service.rpc.stubs import vision_pb2 as pb
from service.settings import Settings
from service.telemetry.log import write_in_threads
from service.telemetry.metrics import Metrics
from service.web.app import Application

STAGES: Final = ("floor", "network", "transport", "service")
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


class Network:
    """The least that batches may cost: a list, and the model's thread, which prepares and computes as ever.

    Args:
        runner: whose model computes.
        most: images of a batch.
    """

    def __init__(self, runner: Runner, most: int) -> None:
        self._runner, self._most = runner, most
        self._threads = Threads(1, "network")
        self._waiting: list[tuple[Callable[[], Prepared], asyncio.Future[None]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def compute(self, body: bytes) -> None:
        """Decodes an image and computes its result, of which nothing is told."""
        pipeline, loop = self._runner.pipeline, asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((lambda: pipeline.preprocess(decode(body), ClassifyOptions()), done))
        if self._serving is None:
            self._serving = loop.create_task(self._serve())
        await done

    async def _serve(self) -> None:
        while batch := self._waiting[: self._most]:
            del self._waiting[: self._most]
            await self._threads.run(self._runner._execute, [job for job, _ in batch])
            for _, done in batch:
                if not done.done():  # its client is still there
                    done.set_result(None)
        self._serving = None


async def nothing(body: bytes) -> None:
    """Computes nothing."""


def echo(compute: Callable[[bytes], Awaitable[None]]) -> ASGIApp:
    """The least that an application may do: takes the body in, computes, sends bytes."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["method"] == "POST":
            await compute(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(JSON))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": JSON})

    return answer


def echo_rpc(compute: Callable[[bytes], Awaitable[None]]) -> grpc.GenericRpcHandler:
    """The same over gRPC, of the kind that every method of the service is registered as."""

    async def answer(_: object, call: Any) -> bytes:
        await compute(pb.ClassifyRequest.FromString(await call.read()).image)
        return REPLY

    handler: Any = grpc.stream_unary_rpc_method_handler(answer, None, None)
    return grpc.method_handlers_generic_handler("lynceus.v1.Vision", {"Classify": handler})


@contextlib.asynccontextmanager
async def served(stage: str, settings: Settings) -> AsyncIterator[ASGIApp]:
    """The application of a stage, and its gRPC server beside it."""
    metrics = Metrics()
    pipeline = registry.build(MODEL, standard_catalogue(), Store(None))
    executor = make_executor(pipeline, settings)
    batch = settings.batch_limit(False)
    runner = Runner(pipeline, executor, metrics, max_batch=batch, max_queue=settings.max_queue)
    service = Service(settings, [runner], metrics)
    await service.start()
    if stage in ("floor", "network"):
        compute = nothing if stage == "floor" else Network(runner, batch).compute
        server = grpc.aio.server()
        server.add_insecure_port(f"{settings.grpc_host}:{settings.grpc_port}")
        server.add_generic_rpc_handlers((echo_rpc(compute),))
        await server.start()
        yield echo(compute)
        await server.stop(1)
        await service.stop()
        return
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
