"""How many calls, connections and watchers gRPC has at once, and how long it waits for a message."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import cards
from service.rpc import interceptor
from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from tests.service.rpc.test_receive import CLASSIFY, PNG, refusal, until
from tests.service.transports import open_transports, pipeline

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
CONNECTIONS = 12
LIST = "/lynceus.v1.Vision/ListModels"


def never(held: threading.Event) -> Iterator[bytes]:
    held.wait(30)
    yield b""


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", CLASSIFY])
def test_a_message_that_does_not_come_is_not_waited_for(method: str) -> None:
    with open_transports([pipeline("lenet5")], timeout_seconds=1, header_timeout_seconds=0.2) as transports:
        held = threading.Event()
        with pytest.raises(grpc.RpcError) as caught:
            transports.channel.stream_unary(method)(never(held), timeout=25)
        held.set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "too long" in str(caught.value.details())
        assert transports.stub.Classify(pb.ClassifyRequest(image=PNG)).labels


def test_calls_that_wait_are_few_and_leave_room_for_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_transports([pipeline("lenet5")], max_connections=CONNECTIONS) as transports:
        held = threading.Event()
        calls = [
            transports.channel.stream_unary(CLASSIFY).future(never(held), timeout=25)
            for _ in range(CONNECTIONS)
        ]
        until(lambda: not _served(transports.stub))
        code = refusal(transports, CLASSIFY, pb.ClassifyRequest(image=PNG).SerializeToString())
        assert code == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        health = health_pb2_grpc.HealthStub(transports.channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        for call in calls:
            call.cancel()
        held.set()
        until(lambda: _served(transports.stub))


def test_replies_that_are_not_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    long = {"models": [{"name": "x" * 1_000_000}]}
    monkeypatch.setattr(cards, "models_answer", lambda _: long)
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    with open_transports([pipeline("lenet5")]) as transports:
        memory = transports.engine.memory
        memory.total = 10_000_000
        with grpc.insecure_channel(transports.address, options) as channel:
            calls = [channel.unary_stream(LIST)(b"", timeout=60) for _ in range(4)]
            until(lambda: memory.bodies > memory.total // 4)
            assert memory.bodies <= memory.total // 2
            assert _served(transports.stub)
            for call in calls:
                call.cancel()
        until(lambda: memory.bodies == 0)
        assert len(transports.stub.ListModels(pb.ListModelsRequest()).models[0].name) == 1_000_000
        until(lambda: memory.bodies == 0)


def test_watchers_are_few_and_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptor, "OPEN_STREAMS", 5)
    with open_transports([pipeline("lenet5")]) as transports:
        health = health_pb2_grpc.HealthStub(transports.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(5)]
        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        assert {next(watch).status for watch in watches} == {serving}
        with pytest.raises(grpc.RpcError) as caught:
            next(health.Watch(health_pb2.HealthCheckRequest()))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        monkeypatch.setattr(transports.engine, "draining", True)
        assert {next(watch).status for watch in watches} == {not_serving}
        monkeypatch.setattr(transports.engine, "draining", False)
        assert {next(watch).status for watch in watches} == {serving}
        for watch in watches:
            watch.cancel()

        def watched() -> bool:
            try:
                return bool(next(health.Watch(health_pb2.HealthCheckRequest(), timeout=60)).status == serving)
            except grpc.RpcError:
                return False

        until(watched)


@pytest.mark.parametrize("size", [20_000, 1_000_000])
def test_metadata_has_a_size(size: int) -> None:
    with open_transports([pipeline("lenet5")]) as transports:
        for metadata in (
            (("x", "y" * size),),
            tuple((f"x{index}", "y" * 100) for index in range(size // 100)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                transports.stub.Classify(pb.ClassifyRequest(image=PNG), metadata=metadata, timeout=20)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert _served(transports.stub)


def test_connections_have_a_number_and_silent_ones_end() -> None:
    limits = {"max_connections": CONNECTIONS, "grpc_idle_seconds": 1}
    with open_transports([pipeline("lenet5")], **limits) as transports:
        port = transports.settings.grpc_port
        silent = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(3 * CONNECTIONS)]
        try:
            for one in silent:
                with contextlib.suppress(ConnectionError):  # it may have been closed already
                    one.sendall(PREFACE)
                one.settimeout(0.3)
            assert sum(map(_open, silent)) <= CONNECTIONS
            assert transports.http("GET", "/v1/models").status_code == 200
            until(lambda: not any(map(_open, silent)))
            assert _served(transports.stub)
        finally:
            for one in silent:
                one.close()


def _open(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


def _served(stub: VisionStub) -> bool:
    try:
        return bool(stub.Classify(pb.ClassifyRequest(image=PNG), timeout=5, wait_for_ready=True).labels)
    except grpc.RpcError:
        return False
