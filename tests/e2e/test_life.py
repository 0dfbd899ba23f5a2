"""A server's life: readiness, the end on a signal, a start that cannot succeed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from tests.server import Server

pytestmark = pytest.mark.e2e

MANY = 40
"""Requests at once over each door: two cores need longer for them than the doors stay open."""


def test_sigterm_under_load_loses_no_request_that_it_has_read(tmp_path: Path, dog: bytes) -> None:
    server = Server(tmp_path / "log", models="yolo-person", workers=2, threads=1, drain_seconds=1)
    try:
        server.wait()
        address, limits = server.grpc_address, httpx.Limits(max_connections=MANY)
        with (
            httpx.Client(base_url=server.url, timeout=60, limits=limits) as client,
            grpc.insecure_channel(address) as channel,
            ThreadPoolExecutor(MANY) as threads,
        ):
            stub = VisionStub(channel)
            stub.ListModels(pb.ListModelsRequest(), timeout=20)
            server.terminate()
            calls = [stub.Detect.future(pb.DetectRequest(image=dog), timeout=60) for _ in range(MANY)]
            posts = [threads.submit(client.post, "/v1/detect", content=dog) for _ in range(MANY)]
            assert {post.result().status_code for post in posts} == {200}
            assert {call.code() for call in calls} == {grpc.StatusCode.OK}
        assert server.stop() == 0
    finally:
        server.stop()


def test_sigterm_turns_readiness_off_finishes_what_is_in_flight_and_exits_0(
    tmp_path: Path, dog: bytes
) -> None:
    server = Server(tmp_path / "log", models="efficientnet-lite0", workers=2, threads=1, drain_seconds=2)
    try:
        server.wait()
        statuses: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not stop.is_set():
                    statuses.append(client.post("/v1/classify", content=dog).status_code)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for thread in clients:
            thread.start()
        with httpx.Client(base_url=server.url, timeout=10) as probe:
            assert probe.get("/readyz").status_code == 200
            server.terminate()
            end = time.monotonic() + 10
            while probe.get("/readyz").status_code == 200:
                assert time.monotonic() < end
            assert probe.get("/readyz").status_code == 503
            assert probe.get("/livez").status_code == 200
            answered = len(statuses)
            while len(statuses) < answered + 3:  # not ready, and still answering
                assert time.monotonic() < end
        stop.set()
        for thread in clients:
            thread.join()
        assert server.stop() == 0
        assert set(statuses) == {200}
    finally:
        stop.set()
        server.stop()


def test_a_model_that_cannot_load_is_one_clear_line_and_the_server_never_ready(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[mine]\ntask = "classify"\nbuilder = "lenet5"\nlicence = "MIT"\n'
        f'[mine.files.weights]\nsource = "file"\npath = "lost.safetensors"\nsha256 = "{"0" * 64}"\n'
    )
    server = Server(tmp_path / "log", models="mine", catalogue=tmp_path / "own.toml", workers=1)
    try:
        end = time.monotonic() + 90
        while "lost.safetensors is missing" not in server.log.read_text():
            assert time.monotonic() < end, server.log.read_text()
            time.sleep(0.2)
        assert "model 'mine'" in server.log.read_text()
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.url}/readyz", timeout=1).raise_for_status()
    finally:
        server.stop()
