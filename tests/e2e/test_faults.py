"""What breaks around the service, on real processes: a killed worker, a full disk, damaged weights."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.weights import COMMITTED, sha256_of
from tests.paths import ROOT
from tests.server import Server

pytestmark = pytest.mark.e2e

TIMEOUT = 400
"""Seconds for what takes ten on an idle machine."""


def until(holds: Callable[[], bool], what: str, seconds: float = TIMEOUT) -> None:
    """Waits for something that another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"in {seconds} s not: {what}"
        time.sleep(0.1)


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def sample(server: Server, name: str, **labels: str) -> float | None:
    """One value of `/metrics`, or None; whichever worker is asked."""
    text = httpx.get(f"{server.url}/metrics", timeout=60).raise_for_status().text
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name == name and labels.items() <= one.labels.items():
                return one.value
    return None


def gauge_files(home: Path) -> set[int]:
    """The processes whose live gauges are still told of."""
    found = home.rglob("gauge_live*.db")
    return {int(path.stem.rpartition("_")[2]) for path in found}


def test_a_killed_worker_leaves_the_other_serving_comes_back_and_stays_counted(
    tmp_path: Path, dog: bytes
) -> None:
    server = Server(tmp_path / "log", models="lenet5", workers=2, threads=1, drain_seconds=0)
    stop = threading.Event()
    asked, answered, broken = [0], [0], [0]
    counted = threading.Lock()

    def ask() -> None:
        while not stop.is_set():
            with counted:
                asked[0] += 1
            try:
                # a connection each, so that both workers get some
                status = httpx.post(f"{server.url}/v1/classify", content=dog, timeout=60).status_code
            except httpx.TransportError:  # it was on the worker that died
                with counted:
                    broken[0] += 1
            else:
                assert status == 200
                with counted:
                    answered[0] += 1

    clients = [threading.Thread(target=ask) for _ in range(3)]
    try:
        server.wait(TIMEOUT)
        until(lambda: len(gauge_files(tmp_path)) == 2, "both workers have gauges")
        until(lambda: server.log.read_text().count("Completed async startup hook") == 2, "both are ready")
        for thread in clients:
            thread.start()
        until(lambda: answered[0] >= 40, "requests before")
        victim = workers(server)[0].pid
        assert victim in gauge_files(tmp_path)
        os.kill(victim, signal.SIGKILL)
        then = answered[0]
        until(lambda: answered[0] >= then + 20, "the other worker goes on")
        until(lambda: not psutil.pid_exists(victim), "it is gone")
        # no worker that is scraped reports what the dead one had waiting or running
        assert sample(server, "lynceus_model_info", model="lenet5") == 1
        assert victim not in gauge_files(tmp_path)
        until(lambda: server.log.read_text().count("Completed async startup hook") == 3, "another one came")
        until(lambda: len(gauge_files(tmp_path)) == 2, "and has gauges")
        stop.set()
        for thread in clients:
            thread.join()
        assert len(workers(server)) == 2
        assert httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200
        assert broken[0] <= len(clients)  # only what was on its way in the worker that died
        assert answered[0] + broken[0] == asked[0]
        total = sample(server, "lynceus_requests_total", task="classify", transport="http", code="ok")
        assert total is not None
        # the dead worker's are in it; it may have counted one whose answer did not get out
        assert answered[0] <= total <= asked[0]
        assert sample(server, "lynceus_queue_depth", model="lenet5") == 0
        assert sample(server, "lynceus_inflight_batches", model="lenet5") == 0
        assert sample(server, "lynceus_worker_deaths_total", signal="SIGKILL") == 1
        assert sample(server, "lynceus_worker_deaths_total", signal="SIGSEGV") == 0
    finally:
        stop.set()
        assert server.stop() == 0
    ends = re.findall(r"worker \d \(pid (\d+)\) .*ended", server.log.read_text())
    assert ends == [str(victim)], "the end of a server is no death"


def test_a_disk_full_of_logs_and_metrics_costs_no_answer(tmp_path: Path, dog: bytes) -> None:
    server = Server(
        tmp_path / "log",
        stdout=Path("/dev/full"),
        models="lenet5",
        workers=1,
        threads=1,
        access_log=True,
        drain_seconds=0,
    )
    try:
        server.wait(TIMEOUT)
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for _ in range(3):  # the line of each has nowhere to go
                assert client.post("/v1/classify", content=dog).status_code == 200
            everyone = [server.process.pid, *(worker.pid for worker in workers(server))]
            for pid in everyone:  # from now on no file of theirs grows: neither the log nor the metrics
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            for path in ("/v1/classify", "/v1/detect", "/v1/faces/detect", "/v1/stylize", "/v1/nothing"):
                answer = client.post(path, content=dog)
                assert answer.status_code == (200 if path == "/v1/classify" else 404), answer.text
            assert client.post("/v1/classify", content=b"no picture").status_code == 415
            assert client.get("/readyz").status_code == 200
            assert client.get("/v1/models").json()["models"][0]["ready"]
            assert sample(server, "lynceus_requests_total", task="classify", code="ok") == 4
            for pid in everyone:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert client.post("/v1/classify", content=dog).status_code == 200
    finally:
        server.stop()
    assert len(everyone) == 2


def catalogue(folder: Path, weights: Path, sha256: str, source: str = 'source = "file"\npath') -> Path:
    """An operator's own catalogue with one model."""
    path = folder / "own.toml"
    path.write_text(
        '[mine]\ntask = "classify"\nbuilder = "lenet5"\nlicense = "MIT"\n'
        f'[mine.files.weights]\n{source} = "{weights}"\nsha256 = "{sha256}"\n'
    )
    return path


def test_damaged_weights_end_the_start_with_one_line_that_names_the_file_and_both_digests(
    tmp_path: Path,
) -> None:
    good = sha256_of(COMMITTED / "lenet5.safetensors")
    damaged = tmp_path / "lenet5.safetensors"
    data = bytearray((COMMITTED / "lenet5.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    server = Server(tmp_path / "log", models="mine", catalogue=catalogue(tmp_path, damaged, good), workers=2)
    try:
        assert server.process.wait(TIMEOUT) == 1
    finally:
        server.stop()
    said = server.log.read_text()
    lines = [line for line in said.splitlines() if "lynceus cannot start" in line]
    assert lines == [
        f"lynceus cannot start: model 'mine': the file {damaged} has sha256 {sha256_of(damaged)}, "
        f"the catalogue says {good}: put the file there or correct the catalogue"
    ]
    assert "Traceback" not in said
    assert "Running startup hook" not in said  # no worker was ever begun


def fetch(**options: object) -> subprocess.CompletedProcess[str]:
    """`make weights`, in an environment of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LYNCEUS_")}
    environment |= {f"LYNCEUS_{key.upper()}": str(value) for key, value in options.items() if key != "limit"}
    limit = options.get("limit")

    def begin() -> None:
        if isinstance(limit, int):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    return subprocess.run(
        [sys.executable, "-B", "-m", "service.host.fetch"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=begin,
        check=False,
    )


def test_a_cache_that_cannot_be_written_is_one_clear_line_and_keeps_nothing(tmp_path: Path) -> None:
    weights = COMMITTED / "lenet5.safetensors"
    own = catalogue(tmp_path, weights, sha256_of(weights), 'source = "url"\nurl')
    own.write_text(own.read_text().replace('url = "', 'url = "file://'))
    (tmp_path / "in the way").touch()
    in_the_way, full = tmp_path / "in the way", tmp_path / "full"
    cases: list[tuple[dict[str, object], str]] = [
        ({"weights_dir": in_the_way}, f"the weights cache {in_the_way} cannot be written: "),
        ({"weights_dir": full, "limit": 4096}, "could not be fetched: [Errno 27] File too large"),
    ]
    for options, words in cases:
        done = fetch(models="mine", catalogue=own, **options)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert words in done.stderr
    assert list(full.iterdir()) == []
    done = fetch(models="mine", catalogue=own, weights_dir=full)
    assert done.returncode == 0, done.stderr
    (kept,) = full.iterdir()
    assert sha256_of(kept) == sha256_of(weights)
