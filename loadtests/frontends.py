"""What a device process costs and gives: requests per core-second with a network that does nothing.

    python -m loadtests.frontends [--front-ends 1,2,3,4] [--workers 1,2]

The same application over the same load, of which only the network is missing: as workers, each of which
batches and would compute itself, and as front ends of one device process. CPU time is that of all its
processes; every layout runs `--rounds` times, and the best is shown, since what else runs on a machine only
takes away.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray

from loadtests import loadgen
from loadtests.server import free_port, status
from loadtests.tasks import TASKS, images_in

READY: Final = 120.0
"""Seconds until a layout serves."""


class Idle:
    """An executor whose network does nothing: a classifier's outputs, without any arithmetic.

    Args:
        pipeline: a classifier's.
    """

    name, device, precision = "idle", "cpu", "float32"
    stages: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, pipeline: Any) -> None:
        card = pipeline.card
        self._widths = [len(card.labels), *([card.features] if card.features else [])]

    def warm(self, example: Any, batches: Sequence[int]) -> None:
        """Nothing."""

    def run(self, items: Sequence[Any]) -> tuple[NDArray[Any], ...]:
        """As large as a network's, of new memory."""
        np.stack([item[0] for item in items])  # as every executor begins
        return tuple(np.zeros((len(items), width), np.float32) for width in self._widths)


@dataclass(frozen=True, slots=True)
class Layout:
    """How many processes serve, and whether one more computes."""

    processes: int
    apart: bool

    def __str__(self) -> str:
        many = "s" * (self.processes > 1)
        if self.apart:
            return f"{self.processes} front end{many}, 1 device process"
        return f"{self.processes} worker{many}"


def _front(settings: dict[str, Any], port: int, socket_of_device: Path | None) -> None:
    """A process that serves HTTP."""
    import uvicorn
    import uvloop

    from service import app
    from service.settings import Settings
    from service.web.app import Application

    app.make_executor = lambda pipeline, *_: Idle(pipeline)  # type: ignore[attr-defined]

    async def serve() -> None:
        service = app.build(Settings(**settings), None, socket_of_device)
        await service.start()
        config = uvicorn.Config(
            Application(service), http="httptools", ws="none", lifespan="off", log_level="critical"
        )
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(("127.0.0.1", port))
            listening.listen(64)
            await uvicorn.Server(config).serve(sockets=[listening])

    uvloop.run(serve())


def _device(settings: dict[str, Any]) -> None:
    """The device process."""
    import uvloop

    from service import device
    from service.settings import Settings

    device.make_executor = lambda pipeline, *_: Idle(pipeline)  # type: ignore[attr-defined]
    uvloop.run(device.serve(Settings(**settings), 1))


@contextlib.contextmanager
def served(layout: Layout, model: str) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A layout's address and processes."""
    context = multiprocessing.get_context("spawn")
    port = free_port()
    settings: dict[str, Any] = {
        "models": (model,),
        "workers": layout.processes,
        "threads": 1,
        "slots": 1,
        "grpc_port": 0,
        "device": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # as BentoML sets it
        path = None
        started = []
        if layout.apart:
            from service.engine.process.wire import socket_of

            path = socket_of(Path(folder), 1)
            settings["engine"] = "process"
            started.append(context.Process(target=_device, args=(settings,)))
        started += [
            context.Process(target=_front, args=(settings, port, path)) for _ in range(layout.processes)
        ]
        for process in started:
            process.start()
        try:
            end = time.monotonic() + READY
            listening = 0
            while listening < layout.processes:
                if time.monotonic() > end or not all(process.is_alive() for process in started):
                    raise RuntimeError(f"{layout} does not serve")
                time.sleep(0.2)
                listening = sum(
                    one.laddr.port == port
                    for process in started
                    for one in psutil.Process(process.pid).net_connections("tcp")
                    if one.status == psutil.CONN_LISTEN
                )
            while status(f"127.0.0.1:{port}", "/v1/models") != 200:
                time.sleep(0.1)
            yield f"127.0.0.1:{port}", [psutil.Process(process.pid) for process in started]
        finally:
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid or 0, signal.SIGTERM)
            for process in started:
                process.join(20)
                process.kill()


def main() -> None:
    """Prints the layouts as a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--front-ends", default="1,2,3,4")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--model", default="efficientnet-lite0", help="a classifier of the catalogue")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    work = TASKS["classify"]
    layouts = [Layout(int(count), False) for count in options.workers.split(",")]
    layouts += [Layout(int(count), True) for count in options.front_ends.split(",")]
    columns = (
        "layout",
        "requests/s",
        "requests per core-second",
        "CPU in the device process",
        "images a batch",
    )
    print(f"| {' | '.join(columns)} | p99, ms |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    images = images_in(work.images)[:32]
    for layout in layouts:
        with served(layout, options.model) as (address, processes):
            rounds = [_measured(address, processes, layout, images, options) for _ in range(options.rounds)]
        rate, each, share, batch, p99 = max(rounds, key=lambda one: one[1])
        told = f"{share:.0%}" if layout.apart else ""
        print(f"| {layout} | {rate:.0f} | {each:.0f} | {told} | {batch:.1f} | {p99:.0f} |", flush=True)


def _measured(
    address: str, processes: Sequence[psutil.Process], layout: Layout, images: Sequence[Path], options: Any
) -> tuple[float, float, float, float, float]:
    """Requests a second and a core-second, the device process' share of those, images a batch, p99 in ms."""
    loadgen.run(
        address, "/v1/classify", images, connections=options.connections, seconds=1.0
    )  # the first requests are done
    before = [sum(one.cpu_times()[:2]) for one in processes]
    load = loadgen.run(
        address, "/v1/classify", images, connections=options.connections, seconds=options.seconds
    )
    took = [sum(one.cpu_times()[:2]) - earlier for one, earlier in zip(processes, before, strict=True)]
    if load.errors:
        raise RuntimeError(f"{layout}: {dict(load.errors)}")
    return load.rps, load.ok / sum(took), took[0] / sum(took), load.mean_batch, load.p99_ms


if __name__ == "__main__":
    main()
