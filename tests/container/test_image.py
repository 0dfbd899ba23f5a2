"""The image for a CPU, built and run for real: without torch, from a read-only root, without any privilege.

`make container-test` and `.ci/run` run this, `make test` does not: a machine's first build is long.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from models.image import encode
from service.tasks import TASKS
from tests.container import build
from tests.server import free_port

pytestmark = pytest.mark.skipif(bool(build.lacking()), reason=f"the container test: {build.lacking()}")

LARGEST = 1_200_000_000
"""Bytes of the image's root file system."""

PHOTO = encode(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8), "jpeg")
CHIP = encode(np.full((150, 150, 3), 90, np.uint8), "png")
TORCH = {"explain"}
"""Tasks that take torch."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root file system of the image, built of this checkout."""
    try:
        build.build(tmp_path_factory.mktemp("build"))
    except build.NoBase as error:
        pytest.skip(str(error))
    with build.mounted() as path:
        yield path


class Running:
    """The image's own command, confined; on loopback ports of its own."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.log = folder / "log"
        state = folder / "state"
        state.mkdir()
        os.chown(state, 10001, 10001)
        ports = {"0.0.0.0": "127.0.0.1", "3000": str(self.port)}
        command = [ports.get(part, part) for part in build.config()["Cmd"]]
        told = {"GRPC_HOST": "127.0.0.1", "GRPC_PORT": self.grpc_port, "WORKERS": 2, "DRAIN_SECONDS": 0}
        variables = [f"LYNCEUS_{name}={value}" for name, value in (told | {"MAX_WAIT_SECONDS": 60}).items()]
        began = time.monotonic()
        with self.log.open("wb") as out:
            confined = build.confined(root, state, ["env", *variables, *command])
            self.box = subprocess.Popen(confined, stdout=out, stderr=out, start_new_session=True)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)
        self._wait(began + 300)
        self.ready_after = time.monotonic() - began

    def _wait(self, until: float) -> None:
        while time.monotonic() < until:
            assert self.box.poll() is None, self.log.read_text()[-4000:]
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError(f"not ready:\n{self.log.read_text()[-4000:]}")

    @property
    def process(self) -> psutil.Process:
        """Process 1 of the container."""
        (inner,) = psutil.Process(self.box.pid).children()
        return inner

    def stop(self, seconds: float) -> tuple[int, float]:
        """SIGTERM to process 1: the exit status, and the seconds that the end took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.box.wait(seconds), time.monotonic() - began


@pytest.fixture(scope="module")
def running(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(root, tmp_path_factory.mktemp("run"))
    yield made
    made.client.close()
    if made.box.poll() is None:
        os.killpg(made.box.pid, signal.SIGKILL)
        made.box.wait()


def bytes_of(root: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))


def test_it_is_small_and_has_no_torch(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = bytes_of(root)
    with capsys.disabled():
        print(f"\nimage: {size / 1e6:.0f} MB")
    assert size <= LARGEST
    names = {path.name for path in root.glob("opt/venv/lib/python*/site-packages/*")}
    assert "openvino" in names
    assert not names & {"torch", "torchvision", "nvidia", "triton", "pip"}
    assert list(root.glob("srv/weights/networks/*.ir"))


def test_what_the_build_was_given_is_in_no_layer(root: Path) -> None:
    assert not (root / "etc" / "pip.conf").exists()
    assert not [path for path in root.glob("root/.cache/**/*") if path.is_file()]
    # where folders of packages were mounted there are empty ones
    given = [
        path for path in root.glob("opt/*/**/*") if path.is_file() and root / "opt/venv" not in path.parents
    ]
    assert given == []


def test_it_runs_without_privileges_from_a_read_only_root(running: Running, capsys: Any) -> None:
    with capsys.disabled():
        print(f"\nready after {running.ready_after:.1f} s")
    for process in (running.process, *running.process.children(recursive=True)):
        of = Path(f"/proc/{process.pid}")
        status = dict(
            line.split(":\t", 1) for line in (of / "status").read_text().splitlines() if ":\t" in line
        )
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
        mounts = [line.split() for line in (of / "mountinfo").read_text().splitlines()]
        assert "ro" in next(mount[5] for mount in mounts if mount[4] == "/").split(",")
    assert running.process.name() == "bentoml" or "bentoml" in " ".join(running.process.cmdline())


def face(client: httpx.Client) -> dict[str, Any]:
    answer = client.post("/v1/faces/embed?aligned=true", content=CHIP).raise_for_status().json()
    (found,) = answer["faces"]
    return dict(found)


def asked(name: str, path: str, client: httpx.Client) -> httpx.Response:
    """One good request of a task."""
    if name == "faces_embed":
        return client.post(f"{path}?aligned=true", content=CHIP)
    if name == "faces_verify":
        return client.post(path, files={"a": PHOTO, "b": PHOTO})
    if name == "faces_compare":
        return client.post(path, json={"a": face(client), "b": face(client)})
    if name == "faces_identify":
        known = face(client)["embedding"]
        return client.post(path, json={"embedding": known, "gallery": [{"name": "Ada", "embedding": known}]})
    if name == "analyze":
        return client.post(f"{path}?tasks=classify,detect", content=PHOTO)
    return client.post(path, content=PHOTO)


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_it_answers_every_task(running: Running, name: str) -> None:
    (path,) = [f"/v1/{task.path}" for task in TASKS if task.name == name]
    answer = asked(name, path, running.client)
    if name in TORCH:
        assert (answer.status_code, answer.json()["code"]) == (501, "not_supported")
    elif name == "faces_verify":  # noise shows no face
        assert (answer.status_code, answer.json()["code"]) == (422, "face_not_found")
    else:
        assert answer.status_code == 200, answer.text


def test_style_jobs_and_sheets_of_filters_are_refused(running: Running) -> None:
    for answer in (
        running.client.post("/v1/stylize/jobs", files={"content": PHOTO, "style": PHOTO}),
        running.client.get("/v1/models/lenet5/filters"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (501, "not_supported")


def test_it_answers_over_grpc(running: Running) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_sigterm_ends_it_in_order(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    status, seconds = running.stop(60)
    with capsys.disabled():
        print(f"\nended {seconds:.1f} s after SIGTERM")
    assert status == 0, running.log.read_text()[-4000:]
