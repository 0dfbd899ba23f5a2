"""The device process: one for each GPU, or for all cores, with `LYNCEUS_ENGINE=process`.

    python -m service.device NUMBER

The supervisor starts it, before the workers and again whenever it ends. It loads and warms every model, then
computes what the workers prepare (see `service.engine.process`). It serves no client. It ends after SIGTERM
when the last worker has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from models.errors import ModelError
from models.image import Limits
from service.app import batching, loaded, set_threads
from service.engine.cores import Cores
from service.engine.engine import Engine
from service.engine.executor import make_executor, pick_device
from service.engine.memory import MemoryBudget, share_arena
from service.engine.process.device import DeviceRunner, DeviceServer
from service.engine.process.wire import socket_of
from service.host.gpus import claim, gpus
from service.host.heartbeat import DEVICE, Watchdog, end_within, leave_reason
from service.settings import Settings, core_count, load
from service.telemetry import metrics as telemetry
from service.telemetry.gpu import make_meter
from service.telemetry.log import write_in_threads, written
from service.telemetry.metrics import DIRECTORY, Metrics

if TYPE_CHECKING:
    from service.engine.cuda import Runtime

logger = logging.getLogger(__name__)

MARGIN: Final = 10.0
"""Seconds that its end may take besides the longest drain and request of a worker."""

SLOTS: Final = 8
"""Most batches of one model at once on a CPU, one a core."""


def make_engine(settings: Settings, metrics: Metrics, cores: Cores | None) -> Engine:
    """The models, as this process computes them.

    Args:
        settings: of this process.
        metrics: of this process.
        cores: where the workers count their images; None: no batch takes all cores.

    Raises:
        ModelUnknown, WeightsError, ValueError: as `service.app.build`.
    """
    cuda = pick_device(settings.device).startswith("cuda")
    set_threads(settings, cuda=cuda)
    runners = [
        DeviceRunner(
            pipeline,
            make_executor(pipeline, settings, store.networks, cores),
            metrics,
            max_batch=max_batch,
            **batching(settings),
        )
        for pipeline, max_batch, store in loaded(settings, cuda=cuda)
    ]
    return Engine(runners, metrics, Limits(settings.max_image_bytes), 0, MemoryBudget(1))


def gpu_runtime(device: str) -> Runtime | None:
    """CUDA, which reads the front ends' slots; None: `device` is a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    from service.engine.cuda import Runtime

    return Runtime(torch.device(device))


async def serve(settings: Settings, number: int) -> None:
    """Serves until SIGTERM and the end of the last worker.

    Args:
        settings: the server's.
        number: of the device, from 1.
    """
    found = len(gpus(settings.device, os.environ))
    device = claim(settings.device, number, os.environ)
    folder = Path(os.environ[DIRECTORY])
    telemetry.forget_dead_workers()
    metrics = Metrics()
    write_in_threads(metrics.log_dropped.inc)
    logging.getLogger("service").setLevel(settings.log_level)
    cores = None
    if not found:
        share_arena()
        if not settings.threads:
            with contextlib.suppress(OSError):
                cores = Cores(folder / "cores", settings.worker_count(0) + 1, core_count())
    # a thread a batch, as the workers' own networks have
    slots = settings.slots or (2 if found else min(SLOTS, max(1, core_count() // max(1, settings.threads))))
    settings = settings.model_copy(update={"workers": core_count(), "slots": slots, "device": device})
    engine = make_engine(settings, metrics, cores)
    await engine.start()
    runners = [runner for runner in engine.runners.values() if isinstance(runner, DeviceRunner)]
    on = runners[0].executor.device
    server = DeviceServer(runners, socket_of(folder, number), gpu_runtime(on))
    meter = make_meter(on, metrics) if found else None
    if meter is not None:
        meter.start()
    # a lost GPU, for one: nothing helps but the supervisor, which begins anew
    watchdog = Watchdog(
        folder,
        metrics,
        lambda: engine.alive,
        lambda: engine.longest,
        settings.timeout_seconds,
        DEVICE,
        given_up=1,
    )
    watchdog.start()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server.start()
    await stop.wait()
    end_within(settings.drain_seconds + settings.timeout_seconds + MARGIN)
    await server.finish()
    await engine.drain(settings.timeout_seconds)
    if meter is not None:
        meter.stop()
    telemetry.leave()
    watchdog.stop()


def main() -> None:
    """Serves; what is wrong at its start is told to the supervisor."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_DFL)  # until it serves: it ends at once
    logging.basicConfig(format="%(asctime)s [%(levelname)s] [device] %(message)s")
    try:
        uvloop.run(serve(load(), int(sys.argv[1])))
    except (ModelError, OSError, ValueError) as error:  # again it would be the same
        logger.error("the device process cannot start: %s", leave_reason(error))
        written()
        os._exit(os.EX_CONFIG)


if __name__ == "__main__":
    main()
