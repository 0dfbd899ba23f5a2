"""What surrounds the gRPC service: health, reflection, keys, TLS, the port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
import trustme
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from pydantic import ValidationError

from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from service.settings import Settings
from tests.service.transports import Transports, open_transports, pipeline

PNG = bytes(cv2.imencode(".png", np.zeros((28, 28, 3), np.uint8))[1])
VISION = "lynceus.v1.Vision"
SERVING, NOT_SERVING, UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("lenet5")], api_keys="one") as transports:
        yield transports


def test_health_is_readiness(transports: Transports, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = health_pb2_grpc.HealthStub(transports.channel)
    for service in ("", VISION):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    watch = stub.Watch(health_pb2.HealthCheckRequest(service=VISION))
    assert next(watch).status == SERVING
    monkeypatch.setattr(transports.engine, "draining", True)
    assert next(watch).status == NOT_SERVING
    assert stub.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING
    monkeypatch.setattr(transports.engine, "draining", False)
    assert next(watch).status == SERVING
    watch.cancel()
    assert next(stub.Watch(health_pb2.HealthCheckRequest(service="nothing"))).status == UNKNOWN


def test_reflection_tells_the_whole_service(transports: Transports) -> None:
    database = ProtoReflectionDescriptorDatabase(transports.channel)
    assert {VISION, "grpc.health.v1.Health"} <= set(database.get_services())
    service = DescriptorPool(database).FindServiceByName(VISION)
    methods = {method.name for method in service.methods}
    assert methods == {method.name for method in pb.DESCRIPTOR.services_by_name["Vision"].methods}
    request = service.FindMethodByName("Classify").input_type
    assert [field.name for field in request.fields] == ["image", "model", "top_k"]


@pytest.mark.parametrize("metadata", [(("authorization", "Bearer one"),), (("x-api-key", "one"),)])
def test_a_key_opens(transports: Transports, metadata: tuple[tuple[str, str], ...]) -> None:
    assert transports.stub.ListModels(pb.ListModelsRequest(), metadata=metadata).models
    assert transports.http("GET", "/v1/models", headers=dict(metadata)).status_code == 200


@pytest.mark.parametrize(
    "metadata", [(), (("authorization", "Basic one"),), (("authorization", "Bearer"),), (("x-api-key", ""),)]
)
def test_anything_else_does_not(transports: Transports, metadata: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        transports.stub.ListModels(pb.ListModelsRequest(), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    answer = transports.http("GET", "/v1/models", headers=dict(metadata))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_stream_needs_a_key_too(transports: Transports) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(transports.stub.ClassifyStream(iter([pb.ClassifyRequest()])))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_stranger_is_refused_before_anything_is_read(transports: Transports) -> None:
    held = threading.Event()

    def never() -> Iterator[bytes]:
        held.wait(30)
        yield b""

    call = transports.channel.stream_unary("/lynceus.v1.Vision/Classify")
    with pytest.raises(grpc.RpcError) as caught:
        call(never(), timeout=20)
    held.set()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_metrics_and_the_document_need_none(transports: Transports) -> None:
    assert transports.http("GET", "/metrics").status_code == 200
    assert transports.http("GET", "/openapi.json").status_code == 200


def test_a_port_that_is_taken_is_an_error(transports: Transports) -> None:
    with (
        pytest.raises(RuntimeError, match=str(transports.settings.grpc_port)),
        open_transports([pipeline("lenet5")], grpc_port=transports.settings.grpc_port),
    ):
        pass


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(tmp_path / "cert.pem"), append=True)
    files = {"grpc_tls_cert": tmp_path / "cert.pem", "grpc_tls_key": tmp_path / "key.pem"}
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with open_transports([pipeline("lenet5")], **files) as transports:
        address = f"localhost:{transports.settings.grpc_port}"
        with grpc.secure_channel(address, trusted) as channel:
            assert VisionStub(channel).ListModels(pb.ListModelsRequest(), timeout=20).models
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            VisionStub(channel).ListModels(pb.ListModelsRequest(), timeout=20)


def test_half_a_certificate_fails_at_start(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="LYNCEUS_GRPC_TLS_KEY"):
        Settings(grpc_tls_cert=tmp_path)


def test_calls_under_way_are_finished_at_the_end() -> None:
    with open_transports([pipeline("lenet5")]) as transports:
        entered, release = asyncio.Event(), asyncio.Event()
        run = transports.engine.runners["lenet5"].run

        async def late(*arguments: object, **options: object) -> object:
            entered.set()
            await release.wait()
            return await run(*arguments, **options)  # type: ignore[arg-type]

        transports.engine.runners["lenet5"].run = late  # type: ignore[method-assign, assignment]
        call = transports.stub.Classify.future(pb.ClassifyRequest(image=PNG))

        async def stop() -> None:
            await entered.wait()
            asyncio.get_running_loop().call_later(0.1, release.set)
            await transports._server.stop(20)

        transports.run(stop())
        assert call.result(20).labels


def test_a_stream_is_told_to_go_elsewhere_at_the_end() -> None:
    with open_transports([pipeline("lenet5")]) as transports:
        go_on = threading.Event()

        def frames() -> Iterator[pb.ClassifyRequest]:
            yield pb.ClassifyRequest(image=PNG)
            yield pb.ClassifyRequest(image=PNG)
            go_on.wait(20)  # the client would go on, but for the server

        stream = transports.stub.ClassifyStream(frames())
        assert next(stream).result.labels
        assert next(stream).result.labels
        transports.run(transports._server.stop(20))
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        go_on.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "open the stream again" in str(caught.value.details())
