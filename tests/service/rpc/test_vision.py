"""gRPC in process: the answers of HTTP, metadata, deadlines, cancellation, streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from tests.service.transports import Transports, open_transports, pipeline


def digit(value: int, side: int = 28) -> bytes:
    picture = np.zeros((side, side, 3), np.uint8)
    cv2.putText(picture, str(value), (6, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    return bytes(cv2.imencode(".png", picture)[1])


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports(
        [pipeline("lenet5")], max_image_bytes=64 * 1024, max_body_bytes=128 * 1024
    ) as transports:
        yield transports


@pytest.mark.parametrize("value", range(10))
def test_the_answer_is_that_of_http(transports: Transports, value: int) -> None:
    reply = transports.stub.Classify(pb.ClassifyRequest(image=digit(value), top_k=3))
    http = transports.http("POST", "/v1/classify?top_k=3", content=digit(value)).json()
    assert reply.model == http["model"] == "lenet5"
    assert [(label.index, label.label) for label in reply.labels] == [
        (label["index"], label["label"]) for label in http["labels"]
    ]
    assert [label.score for label in reply.labels] == pytest.approx(
        [label["score"] for label in http["labels"]], abs=1e-6
    )
    assert (reply.image.width, reply.image.height) == (28, 28)


def test_the_request_id_comes_back_and_the_trace_tells_of_the_batch(transports: Transports) -> None:
    request = pb.ClassifyRequest(image=digit(1))
    _, call = transports.stub.Classify.with_call(request, metadata=(("x-request-id", "mine"),))
    trailing = dict(call.trailing_metadata())
    assert trailing["x-request-id"] == "mine"
    assert trailing["x-batch-size"] == "1"
    assert trailing["server-timing"].startswith("decode;dur=")
    _, call = transports.stub.Classify.with_call(request, metadata=(("x-request-id", "no spaces please"),))
    assert len(str(dict(call.trailing_metadata())["x-request-id"])) == 32


def test_models_are_listed(transports: Transports) -> None:
    (model,) = transports.stub.ListModels(pb.ListModelsRequest()).models
    card = transports.stub.GetModel(pb.GetModelRequest(name=model.name))
    http = transports.http("GET", "/v1/models/lenet5").json()
    assert (model.name, model.task, model.default, model.ready) == ("lenet5", "classify", True, True)
    assert card.sha256 == http["sha256"]
    assert list(card.labels) == http["labels"]
    assert set(card.details) == set(http["details"])
    assert (card.input.height, card.input.width) == (http["input"]["height"], http["input"]["width"])


def test_a_deadline_reaches_the_data_plane(transports: Transports, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = transports.engine.runners["lenet5"]
    run, given = runner.run, list[float]()

    async def note(job: Any, deadline: float | None = None, waited: float = 0.0) -> Any:
        given.append((deadline or 0) - time.monotonic())
        return await run(job, deadline, waited)

    monkeypatch.setattr(runner, "run", note)
    for timeout in (5, 3600, None):
        assert transports.stub.Classify(pb.ClassifyRequest(image=digit(1)), timeout=timeout).labels
    most = transports.settings.timeout_seconds
    assert 0 < given[0] < 5.5  # gRPC rounds a deadline on its way
    assert 5.5 < given[1] <= most
    assert 5.5 < given[2] <= most


def test_a_cancelled_call_leaves_the_queue(transports: Transports, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = transports.engine.runners["lenet5"]
    entered, go_on = threading.Event(), threading.Event()
    run = runner.executor.run

    def slow(pictures: object) -> object:
        entered.set()
        go_on.wait(20)
        return run(pictures)  # type: ignore[arg-type]

    monkeypatch.setattr(runner.executor, "run", slow)
    blocking = transports.stub.Classify.future(pb.ClassifyRequest(image=digit(1)))
    assert entered.wait(20)
    waiting = [transports.stub.Classify.future(pb.ClassifyRequest(image=digit(2))) for _ in range(3)]
    _until(lambda: runner._batcher.queue_depth == 3)
    before = transports.counted("grpc", "classify", "cancelled")
    for call in waiting:
        call.cancel()
    _until(lambda: runner._batcher.queue_depth == 0)
    go_on.set()
    assert blocking.result(20).labels
    _until(lambda: transports.counted("grpc", "classify", "cancelled") == before + 3)


def test_a_message_that_is_too_long_is_refused_and_the_connection_lives(transports: Transports) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        transports.stub.Classify(pb.ClassifyRequest(image=bytes(300 * 1024)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert transports.stub.Classify(pb.ClassifyRequest(image=digit(1))).labels


def test_a_method_that_does_not_exist(transports: Transports) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        transports.channel.unary_unary("/lynceus.v1.Vision/Enhance")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message(transports: Transports) -> None:
    with pytest.raises(grpc.RpcError):
        transports.channel.unary_unary("/lynceus.v1.Vision/Classify")(b"\xff\xff\xff\xff")
    assert transports.stub.Classify(pb.ClassifyRequest(image=digit(1))).labels


def test_a_stream_answers_in_order_and_a_bad_frame_fails_alone(transports: Transports) -> None:
    frames = [digit(index % 10) for index in range(40)]
    frames[7] = b"no picture"
    outcomes = list(transports.stub.ClassifyStream(pb.ClassifyRequest(image=frame) for frame in frames))
    assert len(outcomes) == len(frames)
    for index, (frame, outcome) in enumerate(zip(frames, outcomes, strict=True)):
        if index == 7:
            assert outcome.problem.code == "media_type"
        else:
            alone = transports.stub.Classify(pb.ClassifyRequest(image=frame))
            assert [label.index for label in outcome.result.labels] == [label.index for label in alone.labels]


def test_a_stream_holds_a_fast_sender_back(transports: Transports, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = transports.engine.runners["lenet5"]
    go_on = threading.Event()
    run = runner.executor.run

    def slow(pictures: object) -> object:
        go_on.wait(20)
        return run(pictures)  # type: ignore[arg-type]

    monkeypatch.setattr(runner.executor, "run", slow)
    stream = transports.stub.ClassifyStream(pb.ClassifyRequest(image=digit(3)) for _ in range(200))
    _until(lambda: runner._admitted == runner.window)
    time.sleep(0.2)
    assert runner._admitted == runner.window
    go_on.set()
    assert sum(outcome.WhichOneof("outcome") == "result" for outcome in stream) == 200


def test_a_stream_broken_half_way_ends_what_it_began(transports: Transports) -> None:
    def endless() -> Iterator[pb.ClassifyRequest]:
        while True:
            yield pb.ClassifyRequest(image=digit(5))

    before = transports.counted("grpc", "classify_stream", "cancelled")
    with grpc.insecure_channel(transports.address) as channel:
        stream = VisionStub(channel).ClassifyStream(endless())
        assert next(stream).result.labels
        assert next(stream).result.labels
    _until(lambda: transports.counted("grpc", "classify_stream", "cancelled") == before + 1)
    _until(lambda: transports.engine.runners["lenet5"]._admitted == 0)
    assert transports.stub.Classify(pb.ClassifyRequest(image=digit(1))).labels


def _until(true: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)
