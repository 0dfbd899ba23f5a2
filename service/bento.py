"""BentoML's view of the service: a worker process's start, readiness, drain and end.

    bentoml serve service.bento:Lynceus

BentoML hosts the process: packaging, worker processes, health routes, signals. Its tracing, metrics and
access log are off, since they cost more than half of the requests per second; this service has its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, cast

import bentoml
import click
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import ModelError
from models.registry import unmade
from models.weights import Store, standard_catalogue
from service.engine.cores import Cores
from service.engine.memory import share_arena
from service.engine.process.wire import socket_of
from service.host.accept import FairServer, share_fairly
from service.host.connections import ConnectionGuard, raise_open_files
from service.host.gpus import claim, gpus, memory_of
from service.host.heartbeat import Watchdog, end_within, leave_reason
from service.host.scratch import use_own
from service.settings import EngineKind, ExecutorKind, SettingsError, core_count, load
from service.telemetry.log import write_in_threads, written
from service.telemetry.metrics import DIRECTORY

if TYPE_CHECKING:
    from service.app import Service
    from service.rpc.server import Server

logger = logging.getLogger(__name__)

MARGIN: Final = 5.0
"""Seconds that a worker's end may take besides its drain and its longest request."""

try:
    SETTINGS = load()
except SettingsError as error:
    sys.exit(f"lynceus cannot start: {error}")
HEALTH = ("/livez", "/readyz", "/healthz")
NAMES = gpus(SETTINGS.device, os.environ)  # without torch, which would cost this process 600 MB
GPUS = len(NAMES)
WORKERS = SETTINGS.worker_count(GPUS, memory_of(NAMES) if GPUS else 0)
DEVICES = max(1, GPUS) if SETTINGS.engine is EngineKind.PROCESS else 0
"""Device processes, one for each GPU or one for all cores."""
END = SETTINGS.drain_seconds + SETTINGS.timeout_seconds + MARGIN
if not GPUS:
    share_arena()


def preload() -> None:
    """Imports what a worker needs, for workers that are forks of this process."""
    gc.disable()  # up to a quarter of the time of these imports goes into looking for garbage
    import _bentoml_impl.server.app  # noqa: F401

    import service.app
    import service.rpc.server
    import service.web.app  # noqa: F401
    from service.engine.executor import openvino_runs

    if not DEVICES and openvino_runs(SETTINGS, "cpu"):
        import openvino  # noqa: F401
    gc.freeze()  # or this process would copy what it shares with them whenever it looks for garbage
    gc.enable()


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
            if scope["type"] == "http" and (path := scope["path"].rstrip("/")) in HEALTH:
                await host({**scope, "path": path}, receive, send)
            else:
                await (self.app or host if scope["type"] == "http" else host)(scope, receive, send)

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
    watchdog: Watchdog | None = None
    listening: list[FairServer]
    leaving: asyncio.Task[None] | None = None

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once, before there are workers: what is wrong ends the server with one line and status 1.

        Each worker verifies what it loads again; but a worker that dies is started again. Models of an
        operator's own files, and those whose OpenVINO networks are not made yet, are also built and run once,
        in a process of its own, since that takes torch.
        """
        from service.host.checks import check
        from service.host.supervisor import (  # circus, which a worker does not need
            add_device_processes,
            watch_workers,
        )

        context = click.get_current_context(silent=True)
        given = context.params if context else {}
        http = (given["host"], given["port"]) if "host" in given and "port" in given else None
        metrics = Path(BentoMLContainer.prometheus_multiproc_dir.get())
        try:
            check(SETTINGS, http, metrics if metrics.is_dir() else None, WORKERS + DEVICES)
        except SettingsError as error:
            sys.exit(f"lynceus cannot start: {error}")
        catalogue = standard_catalogue(SETTINGS.catalogue)
        tries = [name for name in SETTINGS.models if catalogue[name].of_operator]
        if not GPUS and SETTINGS.executor is not ExecutorKind.TORCH:
            missing = unmade(SETTINGS.models, catalogue, Store(SETTINGS.weights_dir), SETTINGS.precision)
            tries += [name for name in missing if name not in tries]
        if tries:
            folders = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
            tried = subprocess.run(
                [sys.executable, "-m", "service.check", *tries],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))},
                stdout=subprocess.PIPE,
                text=True,
            )
            if tried.returncode:
                reason = (
                    tried.stdout.strip() or f"the check of {', '.join(tries)} ended with {tried.returncode}"
                )
                sys.exit(f"lynceus cannot start: {reason}")
        if not SETTINGS.api_keys and SETTINGS.api_keys_file is None:
            logger.warning("no API keys are set: every client is answered")
        logging.getLogger("service").setLevel(SETTINGS.log_level)
        with contextlib.suppress(OSError):  # no request needs temporary files
            use_own()
        write_in_threads()
        watch_workers(END + MARGIN, SETTINGS.timeout_seconds, fork=not GPUS)
        if not GPUS:  # CUDA does not survive a fork, and torch is not for this process
            preload()
        if DEVICES:
            add_device_processes(DEVICES, "service.device", Path(__file__).resolve().parents[1])

    @bentoml.on_startup
    async def start(self) -> None:
        """Loads, verifies and warms every model; a failure ends the worker, and tells the supervisor why."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stops = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in stops:
            signal.signal(number, signal.SIG_DFL)  # nothing is under way yet: it ends at once
        try:
            await self._start()
        except Exception as error:
            reason = leave_reason(error)
            if isinstance(error, ModelError | OSError | ValueError):  # again it would be the same
                logger.error("this worker cannot start: %s", reason)
                written()
                os._exit(os.EX_CONFIG)
            raise
        for number, handler in stops.items():
            signal.signal(number, handler)
        self._leave_on(signal.SIGTERM)

    async def _start(self) -> None:
        number, device = bentoml.server_context.worker_index or 1, SETTINGS.device
        if not DEVICES:
            device = claim(device, number, os.environ)
        from service.app import build  # torch, where there is a GPU
        from service.rpc.server import Server
        from service.web.app import Application

        write_in_threads(self._dropped)  # first: what is built keeps the streams that it finds
        logging.getLogger("service").setLevel(SETTINGS.log_level)
        connections = raise_open_files(SETTINGS.max_connections, 1 + bool(SETTINGS.grpc_port))
        if connections < SETTINGS.max_connections:
            logger.warning("the limit of open files allows %d connections of each kind", connections)
        # it sees only its own GPU
        layout = {"workers": WORKERS, "slots": SETTINGS.slot_count(GPUS), "device": device}
        folder = Path(os.environ[DIRECTORY])
        service = build(
            SETTINGS.model_copy(update={**layout, "max_connections": connections}),
            self._cores(folder),
            socket_of(folder, (number - 1) % DEVICES + 1) if DEVICES else None,
        )
        app = Application(service)
        await service.start()
        if SETTINGS.grpc_port:
            self.server = Server(service, shared=WORKERS > 1)
            await self.server.start()
        cast(Hosted, Lynceus).app = app
        self.service = service
        engine = service.engine
        self.watchdog = Watchdog(
            folder,
            service.metrics,
            lambda: bool(DEVICES) or engine.alive,  # a new worker is no help against that process
            lambda: engine.longest,
            SETTINGS.timeout_seconds,
        )
        self.watchdog.start()
        loop = asyncio.get_running_loop()  # on which uvicorn listens when this returns
        self.listening = share_fairly(loop, alone=WORKERS == 1)
        seconds = SETTINGS.header_timeout_seconds
        ConnectionGuard(seconds, connections, loop, lambda: engine.draining).watch()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Runs when every HTTP request has been answered."""
        if self.service is None:
            return
        self.service.engine.draining = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self.service.stop_jobs())
            if self.leaving is not None:
                await self.leaving
            elif self.server is not None:
                group.create_task(self.server.stop(SETTINGS.timeout_seconds))
        await self.service.stop()
        for server in self.listening:
            await server.finish()
        if self.watchdog is not None:
            self.watchdog.stop()

    async def __is_alive__(self) -> bool:
        if self.service is None or self.watchdog is None:
            return True
        return self.service.engine.alive and not self.watchdog.peer_hangs

    async def __is_ready__(self) -> bool:
        return self.service is not None and self.service.engine.ready

    def _cores(self, folder: Path) -> Cores | None:
        """All cores, where the workers share them out among themselves."""
        if GPUS or (WORKERS == 1 and not DEVICES) or SETTINGS.threads:
            return None
        with contextlib.suppress(OSError):
            return Cores(folder / "cores", bentoml.server_context.worker_index or 1, core_count())
        return None

    def _dropped(self) -> None:
        if self.service is not None:
            self.service.metrics.log_dropped.inc()

    def _leave_on(self, number: signal.Signals) -> None:
        """Delays the stop after the signal: not ready, but still answering, until no request is under way.

        Both transports stop at the same time, and whatever hangs, the process has ended after `END` seconds.
        """
        assert self.service is not None  # noqa: S101
        engine = self.service.engine
        then: Any = signal.getsignal(number)
        loop = asyncio.get_running_loop()

        def leave() -> None:
            if self.server is not None:
                self.leaving = loop.create_task(self.server.stop(SETTINGS.timeout_seconds))
            then(number, None)

        def begin(signum: int, frame: FrameType | None) -> None:
            if not engine.draining:
                engine.draining = True
                end_within(END)
                logger.info("draining for %.1f s", SETTINGS.drain_seconds)
                loop.call_soon_threadsafe(loop.call_later, SETTINGS.drain_seconds, leave)

        signal.signal(number, begin)
