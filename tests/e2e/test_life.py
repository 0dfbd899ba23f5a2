"""A server's end on a signal, while as much is under way as it holds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from tests.server import Server

pytestmark = pytest.mark.e2e

MANY = 40
"""Requests at once over each transport: two cores need longer for them than the drain lasts."""


def test_sigterm_under_load_turns_readiness_off_and_loses_no_request(tmp_path: Path, dog: bytes) -> None:
    server = Server(tmp_path / "log", models="yolo-person", workers=2, threads=1, drain_seconds=2)
    try:
        server.wait()
        limits = httpx.Limits(max_connections=MANY + 1)
        with (
            httpx.Client(base_url=server.url, timeout=60, limits=limits) as client,
            grpc.insecure_channel(server.grpc_address) as channel,
            ThreadPoolExecutor(MANY) as threads,
        ):
            stub, health = VisionStub(channel), health_pb2_grpc.HealthStub(channel)
            stub.ListModels(pb.ListModelsRequest(), timeout=20)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="lynceus.v1.Vision"), timeout=60)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            assert client.get("/readyz").status_code == 200
            server.terminate()
            end = time.monotonic() + 10
            while client.get("/readyz").status_code == 200:
                assert time.monotonic() < end
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            # not ready, and still answering whatever is asked until the servers close
            calls = [stub.Detect.future(pb.DetectRequest(image=dog), timeout=60) for _ in range(MANY)]
            posts = [threads.submit(client.post, "/v1/detect", content=dog) for _ in range(MANY)]
            assert client.get("/readyz").status_code == 503
            assert client.get("/livez").status_code == 200
            assert {post.result().status_code for post in posts} == {200}
            assert {call.code() for call in calls} == {grpc.StatusCode.OK}
        assert server.stop() == 0
    finally:
        server.stop()
    assert "Traceback" not in server.log.read_text()
