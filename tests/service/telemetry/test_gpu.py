"""The GPU's metrics, with a double of NVML: what is asked, what is told, what a driver's refusal costs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.gpu import GpuMeter
from service.telemetry.metrics import Metrics
from tests.paths import ROOT

GPU = "b5c1fc52-0000-1111-2222-333344445555"


class NVMLError(Exception):
    """As pynvml's."""


@dataclass
class Nvml:
    """What the meter uses of `pynvml`, over one made-up device."""

    known: str = f"GPU-{GPU}"
    used: int = 3 * 1024**3
    busy: int = 40
    utilization: bool = True
    driver: bool = True
    NVMLError: type[Exception] = NVMLError
    looked: threading.Event = field(default_factory=threading.Event)

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != self.known:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        assert handle == self.known
        return SimpleNamespace(used=self.used, total=80 * 1024**3)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        assert handle == self.known
        self.looked.set()
        if not self.utilization:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=self.busy, memory=7)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_without_a_gpu_nothing_is_told() -> None:
    text = Metrics().render().decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert not [sample for sample in samples if sample.name.startswith("lynceus_gpu")]


def test_each_look_replaces_the_last() -> None:
    metrics, nvml = Metrics(), Nvml()
    meter = GpuMeter(nvml, GPU, metrics)
    meter.look()
    name = f"GPU-{GPU}"
    assert value(metrics, "lynceus_gpu_memory_bytes", gpu=name, kind="used") == 3 * 1024**3
    assert value(metrics, "lynceus_gpu_memory_bytes", gpu=name, kind="total") == 80 * 1024**3
    assert value(metrics, "lynceus_gpu_utilization", gpu=name) == 0.4
    nvml.used, nvml.busy = 5, 100
    meter.look()
    assert value(metrics, "lynceus_gpu_memory_bytes", gpu=name, kind="used") == 5
    assert value(metrics, "lynceus_gpu_utilization", gpu=name) == 1.0


def test_a_slice_of_a_gpu_tells_its_memory_only(caplog: pytest.LogCaptureFixture) -> None:
    metrics, nvml = Metrics(), Nvml(known=f"MIG-{GPU}", utilization=False)
    meter = GpuMeter(nvml, GPU, metrics)
    with caplog.at_level(logging.WARNING):
        meter.look()
        meter.look()
    assert value(metrics, "lynceus_gpu_memory_bytes", gpu=f"MIG-{GPU}", kind="used") == nvml.used
    assert value(metrics, "lynceus_gpu_utilization", gpu=f"MIG-{GPU}") is None
    assert [record.message for record in caplog.records] == [
        f"NVML does not report the utilization of MIG-{GPU}: Not Supported"
    ]


@pytest.mark.parametrize("nvml", [Nvml(driver=False), Nvml(known="GPU-another")])
def test_no_driver_or_no_such_device(nvml: Nvml) -> None:
    with pytest.raises(NVMLError):
        GpuMeter(nvml, GPU, Metrics())


def test_it_looks_in_a_thread_of_its_own_until_stopped() -> None:
    metrics, nvml = Metrics(), Nvml()
    meter = GpuMeter(nvml, GPU, metrics)
    meter.start()
    assert nvml.looked.wait(60)
    meter.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "gpu-meter"]


WORKER = """
import sys
from service.telemetry.metrics import Metrics
from service.telemetry.gpu import GpuMeter
from tests.service.telemetry.test_gpu import GPU, Nvml
metrics = Metrics()
GpuMeter(Nvml(used=int(sys.argv[1]), busy=int(sys.argv[2])), GPU, metrics).look()
print(metrics.render().decode())
"""


def test_of_several_workers_on_one_gpu_the_latest_look_counts(tmp_path: Path) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for used, busy in (("900", "90"), ("100", "10")):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, used, busy],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    found = {
        (sample.name, sample.labels.get("kind")): sample.value
        for family in text_string_to_metric_families(done.stdout)
        for sample in family.samples
        if sample.name.startswith("lynceus_gpu")
    }
    assert found == {
        ("lynceus_gpu_memory_bytes", "used"): 100,
        ("lynceus_gpu_memory_bytes", "total"): 80 * 1024**3,
        ("lynceus_gpu_utilization", None): 0.1,
    }
