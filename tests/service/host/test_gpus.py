"""Workers and GPUs: one each, whatever names them, and none on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.host.gpus import VISIBLE, claim, gpus
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


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_nothing_is_taken_where_there_is_no_choice(four: Path, tmp_path: Path, device: str) -> None:
    environment: dict[str, str] = {}
    claim(device, 1, environment, four)
    claim("auto", 1, environment, tmp_path / "elsewhere")
    assert environment == {}
    environment = {VISIBLE: "7"}
    claim("auto", 1, environment, four)
    assert environment == {VISIBLE: "7"}


def test_as_many_workers_as_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.core_count", lambda: 16)
    assert Settings().worker_count(cuda=4) == 4
    assert Settings().thread_count(cuda=4) == 4
    assert Settings().worker_count(cuda=0) == 16
    assert Settings(workers=8).worker_count(cuda=4) == 8  # two to each GPU
    assert Settings().slot_count(cuda=1) == 2
    assert Settings().slot_count(cuda=0) == 1
    assert Settings(slots=3).slot_count(cuda=1) == 3
