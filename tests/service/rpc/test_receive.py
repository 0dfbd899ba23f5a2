"""What gRPC clients may send at most: what is no message, sizes, compression, memory, streams."""

from __future__ import annotations

import gzip
import logging
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from service.engine.memory import BodyReservation
from service.oip.stubs import open_inference_pb2 as oi
from service.rpc.receive import COPIES, is_compressed
from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from service.rpc.wire import FRAMING
from tests.paths import SHARED
from tests.service.rpc.messages import METHODS, WELL, field, filled, hostile, path, send
from tests.service.transports import Transports, open_transports, pipeline

PNG = bytes(cv2.imencode(".png", np.zeros((28, 28, 3), np.uint8))[1])
HOSTILE = SHARED / "cases" / "hostile"
CLASSIFY, INFER = "/lynceus.v1.Vision/Classify", "/inference.GRPCInferenceService/ModelInfer"
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    limits = {"max_image_bytes": MIB, "max_body_bytes": 8 * MIB, "decode_memory_bytes": 64 * MIB}
    with open_transports([pipeline("lenet5")], header_timeout_seconds=1, **limits) as transports:
        yield transports
        until(lambda: transports.engine.memory.bodies == 0)


@pytest.fixture
def slow(transports: Transports, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The model answers while this is set, which it is from the start and in the end."""
    executor, go_on = transports.engine.runners["lenet5"].executor, threading.Event()
    go_on.set()
    run = executor.run

    def wait(images: Any) -> Any:
        go_on.wait(30)
        return run(images)

    monkeypatch.setattr(executor, "run", wait)
    yield go_on
    go_on.set()


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def refusal(transports: Transports, method: str, raw: bytes) -> tuple[grpc.StatusCode, str]:
    """A call's status and the reason in its details."""
    with pytest.raises(grpc.RpcError) as caught:
        transports.channel.unary_unary(method)(raw, timeout=30)
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason


INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "parameter_invalid")
TOO_LARGE = (grpc.StatusCode.INVALID_ARGUMENT, "image_too_large")


@pytest.mark.parametrize("method", [one for one in METHODS if not one.server_streaming], ids=path)
@pytest.mark.parametrize(
    "raw", [b"\xff\xff\xff\xff", b"\x0a\x05x", b"\x0b\x0c", b"\x78\x9c\x00", b"\x1f\x8b", field(0, 0, 1)]
)
def test_bytes_that_are_no_message_are_the_clients_fault(
    transports: Transports, method: MethodDescriptor, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "service"):
        assert refusal(transports, path(method), raw) == INVALID
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def test_they_are_counted(transports: Transports) -> None:
    before = transports.counted("grpc", "classify", "parameter_invalid")
    assert refusal(transports, CLASSIFY, b"\xff") == INVALID
    until(lambda: transports.counted("grpc", "classify", "parameter_invalid") == before + 1)


def test_text_that_is_no_unicode_is_the_clients_fault(transports: Transports) -> None:
    assert refusal(transports, CLASSIFY, field(2, 2, b"\xff\xfe")) == INVALID


def test_a_call_without_a_message_is_answered(transports: Transports) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        transports.channel.stream_unary(CLASSIFY)(iter(()), timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["grpc-empty-inputs.pb", "grpc-malformed.pb", "grpc-empty-inputs-8m.pb.gz"])
def test_hostile_files(transports: Transports, name: str) -> None:
    if not (HOSTILE / name).is_file():
        pytest.skip("the shared data folder is not beside the checkout")
    raw = (HOSTILE / name).read_bytes()
    assert refusal(transports, INFER, raw) == INVALID
    with grpc.insecure_channel(transports.address, compression=grpc.Compression.Gzip) as channel:
        whole = gzip.decompress(raw) if is_compressed(raw) else raw
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(whole)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_hostile_messages_of_every_method_never_fail_inside(transports: Transports) -> None:
    rng = random.Random(5)
    for _ in range(600):
        method = rng.choice(METHODS)
        raw = hostile(method, rng)
        assert send(transports, method, raw) in WELL, (path(method), raw.hex())


@pytest.mark.parametrize("method", METHODS, ids=path)
def test_no_message_begins_like_a_compressed_one(method: MethodDescriptor) -> None:
    assert 15 not in {one.number for one in method.input_type.fields}
    rng = random.Random(1)
    for _ in range(50):
        assert not is_compressed(filled(method.input_type, rng).SerializeToString())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("padding", [0, 300 * KIB])
def test_compressed_messages_are_taken(
    transports: Transports, compression: grpc.Compression, padding: int
) -> None:
    noise = random.Random(2).randbytes(padding)
    with grpc.insecure_channel(transports.address, compression=compression) as channel:
        reply = VisionStub(channel).Classify(pb.ClassifyRequest(image=PNG + noise, top_k=3), timeout=30)
        frames = [pb.ClassifyRequest(image=PNG + noise)] * 5
        outcomes = list(VisionStub(channel).ClassifyStream(iter(frames), timeout=30))
    assert reply.labels == transports.stub.Classify(pb.ClassifyRequest(image=PNG, top_k=3)).labels
    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == ["result"] * 5


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
@pytest.mark.parametrize(
    ("method", "most"), [(CLASSIFY, MIB), (INFER, 8 * MIB), ("/lynceus.v1.Vision/ListModels", 0)]
)
def test_what_a_compressed_message_becomes_is_bounded_by_its_method(
    transports: Transports, method: str, most: int, compress: Callable[[bytes], bytes]
) -> None:
    bomb = field(1, 2, bytes(4 * most + 4 * FRAMING))
    assert refusal(transports, method, compress(bomb)) == TOO_LARGE
    assert refusal(transports, method, compress(field(1, 2, bytes(64 * MIB)))) == TOO_LARGE


@pytest.mark.parametrize("size", [100, 300 * KIB])
def test_compressed_messages_that_are_damaged_or_go_on_are_refused(transports: Transports, size: int) -> None:
    packed = gzip.compress(pb.ClassifyRequest(image=random.Random(3).randbytes(size)).SerializeToString())
    for raw in (
        packed[:-10],
        packed[: len(packed) // 2],
        packed + b"x",
        packed[:40] + b"\0" * 20 + packed[60:],
    ):
        assert refusal(transports, CLASSIFY, raw) == INVALID


@pytest.mark.parametrize("name", ["x" * 60_000, "\N{GRINNING FACE}" * 15_000, "é\n%" * 15_000])
def test_an_answer_that_repeats_the_clients_text_arrives(transports: Transports, name: str) -> None:
    unknown = grpc.StatusCode.NOT_FOUND, "model_unknown"
    assert (
        refusal(transports, CLASSIFY, pb.ClassifyRequest(image=PNG, model=name).SerializeToString())
        == unknown
    )
    get = "/lynceus.v1.Vision/GetModel"
    assert refusal(transports, get, pb.GetModelRequest(name=name).SerializeToString()) == unknown
    for request in (
        oi.ModelInferRequest(model_name=name),
        oi.ModelInferRequest(model_name="lenet5", model_version=name),
    ):
        assert refusal(transports, INFER, request.SerializeToString()) == unknown
    tensor = oi.ModelInferRequest.InferInputTensor(name=name, datatype="UINT8", shape=[1])
    for request in (
        oi.ModelInferRequest(model_name="lenet5", inputs=[tensor]),
        oi.ModelInferRequest(model_name="lenet5", parameters={name: oi.InferParameter(int64_param=1)}),
        oi.ModelInferRequest(model_name="lenet5", parameters={name: oi.InferParameter()}),
    ):
        assert refusal(transports, INFER, request.SerializeToString()) == INVALID
    health = "/grpc.health.v1.Health/Check"
    request = health_pb2.HealthCheckRequest(service=name)
    assert refusal(transports, health, request.SerializeToString())[0] is grpc.StatusCode.NOT_FOUND


def test_messages_that_find_no_memory_are_refused_and_leave_none_behind() -> None:
    limits = {"max_image_bytes": MIB, "decode_memory_bytes": 4 * MIB}
    with open_transports([pipeline("lenet5")], **limits) as transports:
        large = pb.ClassifyRequest(image=PNG + bytes(900 * KIB))
        bodies = BodyReservation(transports.engine.memory)

        async def take() -> None:
            bodies.grow(MIB)

        assert transports.stub.Classify(large).labels
        transports.run(take())
        code = refusal(transports, CLASSIFY, large.SerializeToString())
        assert code == (grpc.StatusCode.RESOURCE_EXHAUSTED, "out_of_memory")
        assert transports.stub.Classify(pb.ClassifyRequest(image=PNG)).labels
        small, frames = pb.ClassifyRequest(image=PNG), [large] * 3
        outcomes = list(transports.stub.ClassifyStream(iter([small, *frames, small])))
        assert [outcome.problem.code for outcome in outcomes] == ["", *["out_of_memory"] * 3, ""]

        async def give() -> None:
            bodies.__exit__()

        transports.run(give())
        assert transports.stub.Classify(large).labels
        until(lambda: transports.engine.memory.bodies == 0)


def test_a_stream_goes_on_after_a_message_that_is_none(transports: Transports) -> None:
    good = pb.ClassifyRequest(image=PNG).SerializeToString()
    frames = [good, b"\xff", gzip.compress(bytes(4 * MIB)), good]
    call = transports.channel.stream_stream(
        "/lynceus.v1.Vision/ClassifyStream", response_deserializer=pb.ClassifyFrame.FromString
    )
    codes = [outcome.problem.code for outcome in call(iter(frames), timeout=30)]
    assert codes == ["", "parameter_invalid", "image_too_large", ""]
    infer = transports.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        response_deserializer=oi.ModelStreamInferResponse.FromString,
    )
    replies = list(infer(iter([b"\xff", oi.ModelInferRequest(id="7").SerializeToString()]), timeout=30))
    assert [reply.infer_response.id for reply in replies] == ["", "7"]
    assert all(reply.error_message for reply in replies)


@pytest.mark.parametrize("streams", [1, 4])
def test_what_streams_read_ahead_is_bounded_by_bytes(
    transports: Transports, streams: int, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports.engine.runners["lenet5"], "_window", 100)
    slow.clear()
    size = 900 * KIB
    bodies = transports.engine.memory.total // 2
    calls = [
        transports.stub.ClassifyStream(pb.ClassifyRequest(image=PNG + bytes(size)) for _ in range(30))
        for _ in range(streams)
    ]
    until(lambda: transports.engine.memory.bodies >= COPIES * size * streams)
    time.sleep(0.5)
    # what each may have ahead, and the one that passes the bound
    assert transports.engine.memory.bodies <= min(bodies // 2, streams * bodies // 8) + streams * COPIES * (
        size + KIB
    )
    slow.set()
    for call in calls:
        assert sum(outcome.WhichOneof("outcome") == "result" for outcome in call) == 30
    until(lambda: transports.engine.memory.bodies == 0)


def test_a_stream_that_is_not_read_holds_its_sender_back(
    transports: Transports, slow: threading.Event
) -> None:
    sent = list[int]()

    def frames() -> Iterator[pb.ClassifyRequest]:
        for index in range(60):
            sent.append(index)
            yield pb.ClassifyRequest(image=PNG + bytes(900 * KIB))

    # a connection that knows how much the network between holds
    for _ in range(20):
        transports.stub.Classify(pb.ClassifyRequest(image=PNG + bytes(900 * KIB)))
    slow.clear()
    call = transports.stub.ClassifyStream(frames())
    until(lambda: transports.engine.memory.bodies > transports.engine.memory.total // 16)
    time.sleep(0.5)
    assert len(sent) < transports.engine.memory.total // 16 // (COPIES * 900 * KIB) + 6
    slow.set()
    assert sum(outcome.WhichOneof("outcome") == "result" for outcome in call) == 60


def test_a_stream_that_is_broken_off_gives_its_memory_back(
    transports: Transports, slow: threading.Event
) -> None:
    slow.clear()
    calls = [transports.stub.ClassifyStream(iter([pb.ClassifyRequest(image=PNG)] * 20)) for _ in range(3)]
    single = transports.stub.Classify.future(pb.ClassifyRequest(image=PNG))
    until(lambda: transports.engine.memory.bodies > 0)
    for call in (*calls, single):
        call.cancel()
    until(lambda: transports.engine.memory.bodies == 0)
    slow.set()
