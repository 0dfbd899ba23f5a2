"""The report of a GPU: its verdict on reports that are given, and what a pack holds."""

from __future__ import annotations

import copy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from loadtests.gpu_report import carried, pack
from loadtests.gpu_report.__main__ import main
from loadtests.gpu_report.verdict import judge, table
from tests.paths import ROOT

LOAD = {"images_per_s": 9500.0, "p50_ms": 5.0, "p99_ms": 9.0, "batch": 12.0, "cores": 14.0, "errors": 0}
GOOD: dict[str, Any] = {
    "machine": {"gpu": "a GPU", "cores": 16, "took_s": 3.0},
    "checks": {"tests": {"status": 0, "passed": 20}, "torch's sanitizer": {"status": 0, "passed": 3}},
    "networks": {
        "decoding": {"1 processes": 900.0, "16 processes": 10_000.0, "GPU, 16 at once": 7000.0},
        "waiting thread, share of a core": 0.01,
        "efficientnet-lite0": {
            "precision": "float16",
            "ready_s": 9.0,
            "32": {"executor": 19_500.0, "device": 20_000.0},
        },
        "efficientnet-lite0, float32": {
            "precision": "float32",
            "ready_s": 9.0,
            "32": {"executor": 9000.0, "device": 9100.0},
        },
        "dlib-resnet": {"skipped": "its weights are not here"},
    },
    "service": {
        "8 workers": {"ready_s": 30.0, "1 image a request": {**LOAD}, "8 images a request": {**LOAD}}
    },
    "front ends": {
        "8 front ends": {
            "ready_s": 20.0,
            "1 image a request": {**LOAD, "device_process_cores": 1.1},
            "8 images a request": {**LOAD, "device_process_cores": 1.2},
        }
    },
    "mps": {"skipped": "there is no nvidia-cuda-mps-control"},
    "faces": {"ready_s": 20.0, "under load": {**LOAD}, "growth": 0.01},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    report = copy.deepcopy(GOOD)
    *way, last = path.split("/")
    part = report
    for name in way:
        part = part[name]
    part[last] = value
    return report


def test_a_good_report_passes_and_its_table_has_every_figure() -> None:
    assert judge(GOOD, "cuda") == []
    text = table(GOOD, [])
    assert "| efficientnet-lite0 | float16 | 32 | 20000.0 | 19500.0 | 9.0 |" in text
    assert "| service, 8 workers, 8 images a request | 9500.0 | 5.0 | 9.0 | 12.0 | 14.0 |  | 0 |" in text
    assert (
        "| front ends, 8 front ends, 1 image a request | 9500.0 | 5.0 | 9.0 | 12.0 | 14.0 | 1.1 | 0 |" in text
    )
    assert "| GPU, 16 at once | 7000.0 |" in text
    assert text.endswith("passed\n")


@pytest.mark.parametrize("part", ["mps", "front ends"])
def test_what_only_compares_may_be_skipped_but_not_fail(part: str) -> None:
    assert judge(changed(part, {"skipped": "there was no time left"}), "cuda") == []
    assert judge(changed(part, {"failed": "boom"}), "cuda") == [f"{part} failed: boom"]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("checks/tests/status", 1, "tests: ended with 1"),
        ("checks/tests/passed", 0, "no test of tests/gpu ran"),
        ("service/8 workers/1 image a request/errors", 2, "service, 8 workers, 1 image a request: 2 errors"),
        ("service/8 workers/ready_s", 61.0, "service, 8 workers: ready in 61.0 s"),
        ("front ends/8 front ends/ready_s", 61.0, "front ends, 8 front ends: ready in 61.0 s"),
        ("front ends/8 front ends/8 images a request/errors", 1, "8 images a request: 1 errors"),
        ("networks/waiting thread, share of a core", 0.9, "takes 90% of a core"),
        ("networks/efficientnet-lite0/32/executor", 15_000.0, "reaches 75% of the graphs' rate"),
        ("networks/efficientnet-lite0, float32/32/device", 19_000.0, "float16 gains 1.05 times"),
        ("networks/decoding/16 processes", 12_000.0, "9500/s is 79% of 12000/s"),
        ("networks/yolo-person", {"failed": "boom"}, "yolo-person: boom"),
        ("faces/growth", 0.2, "grew by 20.0%"),
        ("detect", {"failed": "TimeoutError"}, "detect failed: TimeoutError"),
        ("detect", {"skipped": "there was no time left"}, "detect skipped"),
    ],
)
def test_a_missed_bar_has_a_reason(path: str, value: Any, reason: str) -> None:
    reasons = judge(changed(path, value), "cuda")
    assert len(reasons) == 1
    assert reason in reasons[0]
    assert f"- {reasons[0]}" in table(GOOD, reasons)


def test_what_is_brought_is_found_before_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "brought-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought/__init__.py", "HERE = 'yes'\n")
        wheel.writestr("brought-1.data/purelib/besides.py", "TOO = 'yes'\n")
    carried.unpack(tmp_path, tmp_path / "site")
    environment = carried.environment(tmp_path, tmp_path / "site", {"PYTHONPATH": str(ROOT)})
    script = (
        "import os, brought, besides; print(brought.HERE, besides.TOO, os.environ['XDG_CACHE_HOME']);"
        "from service.settings import load; load()"  # what a server is started with there
    )
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["yes", "yes", str(tmp_path / "cache")]


def test_images_of_a_pack_are_spread_over_all() -> None:
    paths = [Path(f"{number}.jpg") for number in range(200)]
    assert [path.stem for path in pack.spread(paths, 4)] == ["0", "50", "100", "150"]
    assert pack.spread(paths[:3], 10) == paths[:3]


def test_weights_are_taken_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"large": 40, "small": 10, "none": 0}
    for name, mebibytes in sizes.items():
        (tmp_path / name).write_bytes(bytes(mebibytes * pack.MIB))
    generator = tmp_path / "loadgen"
    generator.touch()
    monkeypatch.setattr(pack.loadgen, "build", lambda: generator)
    monkeypatch.setattr(pack, "images", lambda own: {})
    monkeypatch.setattr(pack, "_wheels", lambda into: None)
    monkeypatch.setattr(pack, "tracked", list)
    monkeypatch.setattr(pack, "weights", lambda model: [tmp_path / model])
    said = pack.pack(tmp_path / "pack", 45.0, ["large", "small", "none"])
    assert "large, none; left out: small (10.0 MiB); 5.0 MiB to spare" in said
    assert "small, none; left out: large (40.0 MiB)" in pack.pack(
        tmp_path / "pack", 45.0, ["small", "large", "none"]
    )
    assert {path.name for path in (tmp_path / "pack").rglob("*") if path.is_file()} == {
        "loadgen",
        "small",
        "none",
    }


def test_the_wheels_are_the_locks_and_leave_out_what_is_there() -> None:
    wanted = dict(pin.split("==") for pin in pack.requirements())
    assert {"bentoml", "simplejpeg", "uvicorn", "pytest"} <= wanted.keys()
    assert not {"torch", "openvino", "numpy"} & wanted.keys()


def test_what_starts_on_a_bare_machine_needs_the_standard_library_alone() -> None:
    # -S: without what is installed
    subprocess.run([sys.executable, "-S", "-c", "import loadtests.gpu_report.__main__"], cwd=ROOT, check=True)


def test_an_unknown_part_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_report", "--device", "cpu", "--parts", "machine,nothing"])
    with pytest.raises(SystemExit):
        main()
    assert "no part named nothing" in capsys.readouterr().err
