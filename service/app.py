"""One worker's service: settings -> runners -> tasks. Every transport works with this one object."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from models import registry
from models.image import Limits
from models.pipeline import Pipeline
from models.weights import Store, standard_catalogue
from service.engine.cores import Cores
from service.engine.engine import Answer, Engine, outcome, together
from service.engine.executor import make_executor, pick_device
from service.engine.memory import MemoryBudget, keep_freed
from service.engine.process.front import DeviceProcess, RemoteRunner
from service.engine.runner import Runner
from service.engine.threads import Aside
from service.host.auth import Auth
from service.host.gpus import gpus
from service.jobs.service import JobService, make_jobs
from service.request import RequestContext, RequestLog
from service.settings import Settings
from service.tasks.render import ImageFormat, Rendered
from service.tasks.task import Encoded, Images, Task
from service.telemetry import metrics as telemetry
from service.telemetry.gpu import GpuMeter, make_meter
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing, make_tracing
from service.torch_process import TorchProcess

T = TypeVar("T")
SCRAPE = 10.0
"""Longest in seconds that a scrape may take: as long as Prometheus waits."""


class Service:
    """What the transports share.

    Args:
        settings: limits and switches.
        runners: every model, the first of each kind its default.
        metrics: of the worker.
        decoders: decoding threads; 0: the models' threads decode.
        tracing: where spans go, if anywhere.
        meter: of the GPU, where there is one.

    Raises:
        ValueError: the file of API keys holds none.

    Attributes:
        engine: the models.
        auth: API keys.
        log: records every request at its end.
        scrapes: reads the metrics' files.
        jobs: style jobs; None where no served model can compute them.
        device_process: what computes; None: this process does.
    """

    def __init__(
        self,
        settings: Settings,
        runners: Iterable[Runner],
        metrics: Metrics,
        *,
        decoders: int = 0,
        tracing: Tracing | None = None,
        meter: GpuMeter | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.tracing = tracing
        self._meter = meter
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        memory = MemoryBudget(settings.decode_memory_bytes)
        self.engine = Engine(runners, metrics, limits, decoders, memory, tracing)
        keys = [key.get_secret_value() for key in settings.api_keys]
        self.auth = Auth(keys, settings.api_keys_file, concurrency=settings.key_concurrency)
        self.log = RequestLog(metrics, self.auth, enabled=settings.access_log)
        self.scrapes = Aside("scrape", SCRAPE)
        self.jobs: JobService | None = None
        self.device_process: DeviceProcess | None = None

    async def run(
        self, task: Task[Any, Any], images: Images | Any, params: Any, context: RequestContext
    ) -> Answer[Any]:
        """A task's result.

        Args:
            task: what to do; it has a `run`.
            images: by name, encoded, or the task's body.
            params: of the task.
            context: of the request.

        Raises:
            ImageInvalid, ImageTooLarge, MediaTypeUnsupported: the bytes.
            ParameterInvalid, ModelUnknown: the request.
            Overloaded, NotReady, OutOfMemory, DeadlineExceeded: the service.
            Exception: those that the task names.
        """
        assert task.run is not None  # noqa: S101
        answer = await task.run(self.engine, images, params, context)
        context.record(answer.timing)
        return answer

    async def run_each(
        self, task: Task[Any, Any], several: Sequence[Images], params: Any, context: RequestContext
    ) -> list[Answer[Any] | Exception]:
        """The same for several images of one request: each its result or its own error."""
        calls = [partial(self.run, task, images, params, context) for images in several]
        return await together([partial(outcome, call) for call in calls], self.window(task, params))

    async def draw(
        self,
        task: Task[Any, Any],
        images: Encoded,
        params: Any,
        image_format: ImageFormat,
        context: RequestContext,
    ) -> Answer[Rendered]:
        """A task's result as an image; the task has a `draw`. Raises as `run` does."""
        assert task.draw is not None  # noqa: S101
        answer = await task.draw(self.engine, images, params, image_format, context)
        context.record(answer.timing)
        return answer

    def check_models(self, task: Task[Any, Any], params: Any) -> None:
        """
        Raises:
            ModelUnknown: a model that is named is not served, or is of another kind.
        """
        for name, kind in task.models.items():
            if (model := getattr(params, name)) is not None:
                self.engine.find(kind, model)

    def window(self, task: Task[Any, Any], params: Any) -> int:
        """Images of one request that may be under way at once (see `Runner`).

        Raises:
            ModelUnknown: the model that is asked for is not served.
        """
        named = {kind: getattr(params, name) or None for name, kind in task.models.items()}
        # the first that is served: an aligned chip goes past the detector, which may be missing
        served = [kind for kind, model in named.items() if model is not None or self.engine.serves(kind)]
        for kind in served or named:
            return self.engine.find(kind, named[kind]).window
        return min(runner.window for runner in self.engine.runners.values())

    async def start(self) -> None:
        """Warms every model; ready when it returns."""
        await self.engine.start()
        if self._meter is not None:
            self._meter.start()
        if self.jobs is not None:
            await asyncio.to_thread(self.jobs.backend.start)

    async def stop_jobs(self) -> None:
        """Stops the background work; no request waits for it."""
        if self.jobs is not None:
            await asyncio.to_thread(self.jobs.backend.stop)

    async def stop(self) -> None:
        """Finishes the remaining work and releases the threads; every request has been answered by now."""
        await self.engine.drain(self.settings.timeout_seconds)
        if self.device_process is not None:
            self.device_process.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        if self._meter is not None:
            self._meter.stop()
        telemetry.leave()


def loaded(settings: Settings, *, cuda: bool) -> Iterator[tuple[Pipeline, int, Store]]:
    """Each model of the settings, the largest batch of it, and where its files are.

    Raises:
        ModelUnknown, WeightsError: the configuration or a file is wrong.
    """
    catalogue, store = standard_catalogue(settings.catalogue), Store(settings.weights_dir)
    for name in settings.models:
        pipeline = registry.build(name, catalogue, store)
        limit = pipeline.batch or settings.batch_limit(cuda, catalogue[name].cpu_batch)
        yield pipeline, min(limit, catalogue[name].max_batch or limit), store


def batching(settings: Settings) -> dict[str, Any]:
    """What the settings give to every `Runner`, by the names of its arguments."""
    return {
        "max_queue": settings.max_queue,
        "slots": settings.slots,
        "linger": settings.linger_ms / 1000,
        "max_wait": settings.max_wait_seconds,
    }


def set_threads(settings: Settings, *, cuda: bool) -> None:
    """Bounds the threads of the libraries that this process will load."""
    os.environ["OMP_NUM_THREADS"] = str(settings.thread_count(cuda))  # for torch, if something imports it
    if cuda:
        import torch

        torch.set_num_threads(settings.thread_count(cuda))


def build(settings: Settings, cores: Cores | None = None, device_process: Path | None = None) -> Service:
    """The service that the settings describe.

    Args:
        settings: of this worker.
        cores: where images of all workers are counted; None: no batch takes the others' cores.
        device_process: the socket of the process that computes; it is waited for. None: this one computes.

    Raises:
        ModelUnknown, WeightsError: the configuration or a file is wrong.
        ValueError: a device, an executor or an exporter of traces that is not there, or a file of API keys
            without any.
    """
    apart = device_process is not None
    if apart:
        keep_freed()
    device = "cpu" if apart else pick_device(settings.device)
    on_gpu = bool(gpus(settings.device, os.environ)) if apart else device.startswith("cuda")
    set_threads(settings, cuda=on_gpu and not apart)
    telemetry.forget_dead_workers()
    metrics = Metrics()
    meter = make_meter(device, metrics) if on_gpu and not apart else None
    tracing = make_tracing(settings.tracing)
    models = list(loaded(settings, cuda=on_gpu))
    decoders = settings.decoder_count(on_gpu)
    options = batching(settings) | {"tracing": tracing, "cores": cores}
    link = None
    runners: list[Runner]
    if device_process is None:
        runners = [
            Runner(
                pipeline,
                make_executor(pipeline, settings, store.networks, cores),
                metrics,
                max_batch=max_batch,
                **options,
            )
            for pipeline, max_batch, store in models
        ]
    else:
        link = DeviceProcess(device_process, metrics)
        remotes = [
            link.serve(
                pipeline,
                room=settings.max_queue + max(1, settings.slots) * max_batch,
                threads=max(1, decoders),
                max_wait=settings.max_wait_seconds,
            )
            for pipeline, max_batch, _ in models
        ]
        link.wait()
        runners = [
            RemoteRunner(pipeline, remote, metrics, max_batch=max_batch, **options)
            for (pipeline, max_batch, _), remote in zip(models, remotes, strict=True)
        ]
    decoders = 0 if apart else decoders  # they prepare in the threads that fill slots
    service = Service(settings, runners, metrics, decoders=decoders, tracing=tracing, meter=meter)
    service.device_process = link
    # a GPU's networks are changed for it, and its threads and its memory are the batches'
    if on_gpu or apart or all(runner.executor.name == "openvino" for runner in runners):
        service.engine.torch_process = TorchProcess(
            settings.thread_count(on_gpu), settings.catalogue, settings.weights_dir
        )
    service.jobs = make_jobs(settings, service.engine, metrics)
    return service
