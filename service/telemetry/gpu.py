"""Memory and utilisation of the GPU, from NVIDIA's management library (NVML), as metrics.

Queried every few seconds by a separate thread: a driver that hangs blocks no request. NVML counts the
whole device, other processes' share too; with several workers each queries it, and the latest value counts.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

PERIOD: Final = 5.0
"""Seconds between two queries; NVML's own utilisation is a mean of a sixth of a second to one."""


class GpuMeter:
    """Keeps `lynceus_gpu_memory_bytes` and `lynceus_gpu_utilization` up to date.

    Args:
        nvml: the module `pynvml`, or what behaves like it.
        uuid: of the device, as CUDA has it, and its label; not its number, for every worker with a GPU of its
            own counts from 0.
        metrics: that are updated.

    Raises:
        nvml.NVMLError: there is no driver, or no such device.
    """

    def __init__(self, nvml: Any, uuid: str, metrics: Metrics) -> None:
        self._nvml = nvml
        self._metrics = metrics
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_now_and_then, name="gpu-meter", daemon=True)
        self._broken: set[str] = set()
        nvml.nvmlInit()
        try:
            self._gpu = f"GPU-{uuid}"
            self._handle = nvml.nvmlDeviceGetHandleByUUID(self._gpu)
        except nvml.NVMLError:
            self._gpu = f"MIG-{uuid}"
            self._handle = nvml.nvmlDeviceGetHandleByUUID(self._gpu)

    def start(self) -> None:
        """Queries at once, and then every `PERIOD` seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Stops the queries."""
        self._stopping.set()
        self._thread.join(1.0)  # a hung driver does not delay the end of the process

    def look(self) -> None:
        """Queries NVML once. What it lacks (a MIG slice has no utilisation) is left out; logged once."""
        for what, ask in (("memory", self._ask_memory), ("utilization", self._ask_utilization)):
            try:
                ask()
            except self._nvml.NVMLError as error:
                if what not in self._broken:
                    logger.warning("NVML does not report the %s of %s: %s", what, self._gpu, error)
                self._broken.add(what)
            else:
                self._broken.discard(what)

    def _ask_memory(self) -> None:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        self._metrics.gpu_memory.labels(self._gpu, "used").set(memory.used)
        self._metrics.gpu_memory.labels(self._gpu, "total").set(memory.total)

    def _ask_utilization(self) -> None:
        rates = self._nvml.nvmlDeviceGetUtilizationRates(self._handle)
        self._metrics.gpu_utilization.labels(self._gpu).set(rates.gpu / 100)

    def _look_now_and_then(self) -> None:
        self.look()
        while not self._stopping.wait(PERIOD):
            self.look()


def make_meter(device: str, metrics: Metrics) -> GpuMeter | None:
    """The meter of a CUDA device; None, and a line in the log, where NVML is not available.

    Args:
        device: ``cuda``, ``cuda:0`` and so on.
        metrics: that it updates.
    """
    import pynvml  # type: ignore[import-untyped]
    import torch

    uuid = str(torch.cuda.get_device_properties(torch.device(device)).uuid)
    try:
        return GpuMeter(pynvml, uuid, metrics)
    except pynvml.NVMLError as error:
        logger.warning("no metrics of the GPU: %s", error)
        return None
