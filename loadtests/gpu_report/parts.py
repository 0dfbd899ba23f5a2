"""The parts of the report, in their order; each is a function that returns what it found."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from loadtests.gpu_report import served
from loadtests.gpu_report.served import Setting

ROOT = Path(__file__).resolve().parents[2]
Found = dict[str, Any]


def machine(setting: Setting) -> Found:
    """What it is measured on: versions, GPU, driver."""
    script = (
        "import json, torch; there = torch.cuda.is_available()\n"
        "p = torch.cuda.get_device_properties(0) if there else None\n"
        "print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda,"
        " 'cudnn': torch.backends.cudnn.version() if there else None,"
        " 'gpu': p.name if p else None, 'capability': [p.major, p.minor] if p else None,"
        " 'multiprocessors': p.multi_processor_count if p else None,"
        " 'memory_gib': round(p.total_memory / 2**30, 1) if p else None}))"
    )
    found = _json_of([sys.executable, "-c", script], setting.left(90))
    locked = re.search(r"^torch==([^\s;]+)", (ROOT / "requirements-gpu.lock").read_text(), re.MULTILINE)
    smi = shutil.which("nvidia-smi")
    told = (
        _run([smi, "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv"], 30) if smi else ""
    )
    return {
        **found,
        "locked torch": locked[1] if locked else None,
        "nvidia-smi": told.strip(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
    }


def checks(setting: Setting) -> Found:
    """The tests that need a GPU, and the same of the executor under a checker of streams."""
    found: Found = {"tests": _tests(["tests/gpu"], setting.left(240), {})}
    if setting.device == "cpu":
        return found
    graphs = ["tests/gpu/test_cuda_executor.py"]
    found["torch's sanitizer"] = _tests(graphs, setting.left(60), {"TORCH_CUDA_SANITIZER": "1"})
    if sanitizer := shutil.which("compute-sanitizer"):
        command = [sanitizer, "--error-exitcode=9", "--tool=memcheck"]
        found["compute-sanitizer"] = _tests(graphs[:1], setting.left(60), {}, command)
    return found


def networks(setting: Setting) -> Found:
    """Each network alone, decoding alone, and how threads wait; see `alone.py`."""
    command = [sys.executable, "-m", "loadtests.gpu_report.alone", "--device", setting.device]
    command += ["--seconds", str(setting.seconds / 4), "--images", str(setting.images["classify"])]
    command += ["--until", str(setting.left(190) - 40)]  # the last one that began may take long
    return _json_of(command, setting.left(190))


PARTS: Final[dict[str, Callable[[Setting], Found]]] = {
    "machine": machine,
    "checks": checks,
    "networks": networks,
    "service": served.by_workers,
    "faces": served.faces,
    "detect": served.detect,
    "front ends": partial(served.by_workers, apart=True),  # as many as there is time for
    "mps": served.with_mps,
}


def _tests(
    paths: list[str], seconds: float, more: Mapping[str, str], before: list[str] | None = None
) -> Found:
    command = [*(before or []), sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *paths]
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode().strip().splitlines()[-15:]
        return {"status": "timeout", "said": "\n".join([*said, f"not done in {seconds:.0f} s"])}
    lines = ended.stdout.strip().splitlines()
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", lines[-1])
    }
    return {"status": ended.returncode, **counts, "said": "\n".join(lines[-15:]) if ended.returncode else ""}


def _json_of(command: list[str], seconds: float) -> Found:
    """What a program prints last, read as JSON."""
    found: Found = json.loads(_run(command, seconds).strip().splitlines()[-1])
    return found


def _run(command: list[str], seconds: float) -> str:
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {ended.returncode}: {ended.stderr[-1500:]}")
    return ended.stdout


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
