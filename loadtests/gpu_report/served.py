"""The service under load: by workers, by images a request, with MPS; what it takes of the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import loadgen
from loadtests.server import Server
from loadtests.tasks import BOUNDARY, multipart

SEVERAL = 8
"""Images of a request, where it has several."""
DEVICE = "service.device"
"""What a device process is started as."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every part is given.

    Attributes:
        device: ``cuda`` or ``cpu``.
        seconds: of each measurement under load.
        images: a folder for each kind.
        ends: when the report has to, on the monotonic clock.
    """

    device: str
    seconds: float
    images: Mapping[str, Path]
    ends: float

    def left(self, most: float) -> float:
        """Seconds that something may take."""
        most *= 10 if self.device == "cpu" else 1  # a trial's machine may be busy
        return max(1.0, min(most, self.ends - time.monotonic()))


def by_workers(setting: Setting, *, apart: bool = False) -> dict[str, Any]:
    """Classification by numbers of workers, for one and for several images a request.

    Args:
        apart: the workers are front ends of a device process, which batches over all of them.
    """
    cores = len(os.sched_getaffinity(0))
    more = (cores // 2, cores) if apart else (cores // 4, cores // 2)  # the last is the default
    found: dict[str, Any] = {}
    for workers in [1] if setting.device == "cpu" else sorted({1, *(max(1, count) for count in more)}):
        if time.monotonic() > setting.ends:
            break
        name = f"{workers} {'front ends' if apart else 'workers'}"
        found[name] = classified(setting, workers, {"LYNCEUS_ENGINE": "process" if apart else "worker"})
    return found


def with_mps(setting: Setting) -> dict[str, Any]:
    """As many workers as are the default, with NVIDIA's Multi-Process Service, where it is there."""
    control = shutil.which("nvidia-cuda-mps-control")
    if setting.device == "cpu" or control is None:
        return {"skipped": "there is no nvidia-cuda-mps-control"}
    workers = max(1, len(os.sched_getaffinity(0)) // 2)
    with tempfile.TemporaryDirectory(prefix="lynceus-mps-") as folder, _daemon(control, folder) as variables:
        return {f"{workers} workers": classified(setting, workers, variables)}


@contextlib.contextmanager
def _daemon(control: str, folder: str) -> Iterator[dict[str, str]]:
    variables = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
    for path in variables.values():
        Path(path).mkdir()
    environment = {**os.environ, **variables}
    subprocess.run([control, "-d"], env=environment, check=True, timeout=30)
    try:
        yield variables
    finally:
        subprocess.run([control], input="quit\n", text=True, env=environment, check=False, timeout=60)


def classified(setting: Setting, workers: int, more: Mapping[str, str]) -> dict[str, Any]:
    """Classification at one number of workers."""
    device, images, seconds = setting.device, setting.images["classify"], setting.seconds
    model = "lenet5" if device == "cpu" else "efficientnet-lite0"
    settings = {"LYNCEUS_MODELS": model, "LYNCEUS_WORKERS": str(workers), **more}
    with started(settings) as (server, found), _several(images) as bodies:
        one = sorted(images.rglob("*.jpg"))
        connections = 2 if device == "cpu" else max(64, 24 * workers)
        found["1 image a request"] = load(server, "/v1/classify", one, connections, seconds)
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        told = load(server, "/v1/classify", bodies, max(2, connections // 4), seconds, SEVERAL, kind)
        found[f"{SEVERAL} images a request"] = told
        found["memory"] = memory(server)
    return found


@contextlib.contextmanager
def _several(images: Path) -> Iterator[list[Path]]:
    """Files with bodies of several images each."""
    encoded = [path.read_bytes() for path in sorted(images.rglob("*.jpg"))]
    with tempfile.TemporaryDirectory(prefix="lynceus-bodies-") as folder:
        paths = []
        for number in range(len(encoded)):
            chosen = [encoded[(number + step) % len(encoded)] for step in range(SEVERAL)]
            paths.append(Path(folder) / f"{number:03d}.body")
            paths[-1].write_bytes(multipart(("image",) * SEVERAL, chosen))
        yield paths


def faces(setting: Setting) -> dict[str, Any]:
    """Detection of faces, and how much memory it takes before and after many of them: it must not grow."""
    workers, seconds = 1 if setting.device == "cpu" else 4, setting.seconds
    with started({"LYNCEUS_MODELS": "mtcnn", "LYNCEUS_WORKERS": str(workers)}) as (server, found):
        bodies = sorted(setting.images["faces"].rglob("*.jpg"))
        load(server, "/v1/faces/detect", bodies, 8 * workers, seconds)
        before = server.resident_bytes()
        found["under load"] = load(server, "/v1/faces/detect", bodies, 8 * workers, 2 * seconds)
        found["growth"] = round(server.resident_bytes() / before - 1, 4)
        found["memory"] = memory(server)
    return found


def detect(setting: Setting) -> dict[str, Any]:
    """Detection of people, whose network limits."""
    workers, connections = (1, 2) if setting.device == "cpu" else (4, 128)
    with started({"LYNCEUS_MODELS": "yolo-person", "LYNCEUS_WORKERS": str(workers)}) as (server, found):
        bodies = sorted(setting.images["detect"].rglob("*.jpg"))
        found["under load"] = load(server, "/v1/detect", bodies, connections, setting.seconds)
        found["memory"] = memory(server)
    return found


@contextlib.contextmanager
def started(settings: Mapping[str, str]) -> Iterator[tuple[Server, dict[str, Any]]]:
    """A server with these settings, and a result that has how long it took to be ready."""
    began = time.monotonic()
    with Server({"LYNCEUS_DRAIN_SECONDS": "0", **settings}, timeout=180.0) as server:
        yield server, {"ready_s": round(time.monotonic() - began, 1)}


def load(
    server: Server,
    path: str,
    bodies: list[Path],
    connections: int,
    seconds: float,
    images: int = 1,
    content_type: str = "image/jpeg",
) -> dict[str, Any]:
    """Images per second, latencies, errors, and the cores that the server took, and its device process."""
    computed, apart, began = server.cpu_seconds(), server.cpu_seconds(DEVICE), time.monotonic()
    told = loadgen.run(
        server.address,
        path,
        bodies,
        content_type=content_type,
        connections=connections,
        seconds=seconds,
        warmup=min(2.0, seconds / 2),
    )
    took = time.monotonic() - began
    cores, apart = ((server.cpu_seconds() - computed) / took, (server.cpu_seconds(DEVICE) - apart) / took)
    row = {
        "images_per_s": round(images * told.rps, 1),
        "p50_ms": round(told.p50_ms, 1),
        "p99_ms": round(told.p99_ms, 1),
        "batch": round(told.mean_batch, 1),
        "cores": round(cores, 2),
        "errors": sum(told.errors.values()),
    }
    return row | ({"device_process_cores": round(apart, 2)} if apart else {})


def memory(server: Server) -> dict[str, float]:
    """MiB of the server's processes, and of the whole GPU."""
    found: dict[str, float] = {"resident_mib": round(server.resident_bytes() / 2**20)}
    if smi := shutil.which("nvidia-smi"):
        command = [smi, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.split()
        found["gpu_mib"] = sum(int(word) for word in told if word.isdigit())
    return found
