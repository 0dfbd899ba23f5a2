"""Workers and GPUs: one each, whatever names them, and none on a CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.host.gpus import VISIBLE, claim, gpus, memory_of
from service.settings import Settings


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """A machine's device nodes; those that are no GPU count for nothing."""
    for name in ("nvidia0", "nvidia1", "nvidia4", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_the_device_nodes_are_counted(four: Path, device: str) -> None:
    assert gpus(device, {}, four) == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("2", ("2",)),
        ("3, 1", ("3", "1")),
        ("GPU-8a5c,GPU-77b0", ("GPU-8a5c", "GPU-77b0")),
        ("MIG-1f,MIG-2f,MIG-3f", ("MIG-1f", "MIG-2f", "MIG-3f")),
        ("0,-1,1", ("0",)),
        ("-1", ()),
        ("", ()),
    ],
)
def test_the_environment_goes_first(four: Path, visible: str, found: tuple[str, ...]) -> None:
    assert gpus("auto", {VISIBLE: visible}, four) == found


def test_a_cpu_has_none_and_a_number_is_one(four: Path, tmp_path: Path) -> None:
    assert gpus("cpu", {}, four) == ()
    assert gpus("auto", {}, tmp_path / "elsewhere") == ()
    assert gpus("cuda", {}, tmp_path / "elsewhere") == ("0",)
    assert gpus("cuda:1", {}, four) == ("1",)


def test_each_worker_takes_a_gpu_of_its_own_by_turns(four: Path) -> None:
    taken = []
    for worker in range(1, 9):
        environment: dict[str, str] = {}
        claim("auto", worker, environment, four)
        taken.append(environment[VISIBLE])
    assert taken == ["0", "1", "2", "3"] * 2
    environment = {VISIBLE: "MIG-1f,MIG-2f"}
    claim("cuda", 2, environment, four)
    assert environment == {VISIBLE: "MIG-2f"}


def test_one_that_is_named_is_the_only_one_that_a_worker_sees(four: Path) -> None:
    environment: dict[str, str] = {}
    assert claim("cuda:2", 5, environment, four) == "cuda"
    assert environment == {VISIBLE: "2"}
    environment = {VISIBLE: "GPU-8a5c,GPU-77b0"}
    assert claim("cuda:1", 1, environment, four) == "cuda"
    assert environment == {VISIBLE: "GPU-77b0"}


def test_nothing_is_taken_where_there_is_no_choice(four: Path, tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    assert claim("cpu", 1, environment, four) == "cpu"
    claim("auto", 1, environment, tmp_path / "elsewhere")
    assert environment == {}
    environment = {VISIBLE: "7"}
    claim("auto", 1, environment, four)
    assert environment == {VISIBLE: "7"}


def test_several_workers_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = 16
    monkeypatch.setattr("service.settings.core_count", lambda: cores)
    assert Settings().worker_count(cuda=1) == 8
    assert Settings().worker_count(cuda=4) == 8  # two to each GPU
    assert Settings().thread_count(cuda=4) == 2
    assert Settings().decoder_count(cuda=True) == 1
    assert Settings().worker_count(cuda=1, memory=10 << 30) == 2  # a slice of an A100
    assert Settings().worker_count(cuda=1, memory=1 << 30) == 1
    cores = 64
    assert Settings().worker_count(cuda=1, memory=80 << 30) == 8
    cores = 1
    assert Settings().worker_count(cuda=1) == 1
    assert Settings().decoder_count(cuda=True) == 0
    cores = 16
    assert Settings(workers=1).decoder_count(cuda=True) == 4
    assert Settings().worker_count(cuda=0) == 16
    assert Settings(workers=8).worker_count(cuda=4) == 8  # two to each GPU
    assert Settings().slot_count(cuda=1) == 2
    assert Settings().slot_count(cuda=0) == 1
    assert Settings(slots=3).slot_count(cuda=1) == 3


def test_the_smallest_gpu_counts_and_a_driver_that_is_not_there_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NVMLError(Exception):
        pass

    sizes: dict[int | str, int] = {0: 80 << 30, 1: 24 << 30, "MIG-1f": 10 << 30}
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=sizes[handle]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert memory_of(("0", "1")) == 24 << 30
    assert memory_of(("MIG-1f",)) == 10 << 30

    def fails() -> None:
        raise NVMLError

    nvml.nvmlInit = fails
    assert memory_of(("0",)) == 0
