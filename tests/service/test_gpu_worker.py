"""What processes beside a GPU's batches do: nothing on the GPU; and what a device process asks of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from service import app, torch_process
from service.device import gpu_runtime
from service.engine import cuda
from service.errors import OutOfMemory, problem_of
from service.settings import Settings
from service.torch_process import TorchProcess
from tests.service.doubles import MeanPipeline


class OnGpu:
    """An executor that is never run."""

    name, device, precision = "torch", "cuda:0", "float16"
    stages: dict[str, Any] = {}  # noqa: RUF012


def test_explanations_are_computed_in_a_process_without_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "pick_device", lambda setting: "cuda:0")
    monkeypatch.setattr(app, "make_meter", lambda device, metrics: None)
    monkeypatch.setattr(app, "make_executor", lambda *_: OnGpu())
    monkeypatch.setattr(app.registry, "build", lambda name, *_: MeanPipeline(name))
    threads = torch.get_num_threads()
    try:
        service = app.build(Settings(models=("lenet5",), device="cuda", workers=1, slots=2))
    finally:
        torch.set_num_threads(threads)
    assert isinstance(service.engine.torch_process, TorchProcess)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_an_explanation_without_memory_is_refused_as_a_batch_is(error: Exception) -> None:
    kind, arguments = torch_process.refusal(error)
    assert kind is OutOfMemory
    assert problem_of(kind(*arguments)).kind.http == 503


def test_another_error_is_told_and_is_no_refusal() -> None:
    kind, arguments = torch_process.refusal(ZeroDivisionError("by nothing"))
    assert kind is RuntimeError
    assert arguments == ("ZeroDivisionError: by nothing",)


def test_a_device_process_registers_memory_with_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "Runtime", lambda device: device)
    assert gpu_runtime("cpu") is None
    assert gpu_runtime("cuda:0") == torch.device("cuda:0")
