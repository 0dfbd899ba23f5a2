"""What one client may take of the service: requests of a key at once, a pause in a body."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import grpc
import httpx
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.errors import DeadlineExceeded, KeyBusy, Unauthenticated
from service.host.auth import Auth
from service.rpc.stubs import vision_pb2 as pb
from tests.service.transports import Transports, open_transports, pipeline

ONE, TWO = {"x-api-key": "one"}, {"x-api-key": "two"}
PNG = bytes(cv2.imencode(".png", np.zeros((28, 28, 3), np.uint8))[1])


@pytest.fixture
def transports() -> Iterator[Transports]:
    with open_transports(
        [pipeline("lenet5")], api_keys="one,two", key_concurrency=2, body_timeout_seconds=0.5
    ) as transports:
        yield transports


class Held:
    """Holds the classifier's pictures until they are let go."""

    def __init__(self, transports: Transports, monkeypatch: pytest.MonkeyPatch) -> None:
        runner = transports.engine.runners["lenet5"]
        plain = runner.run
        self._doors, self._gate = transports, transports.run(self._event())
        self._came = threading.Semaphore(0)

        async def run(*args: Any, **options: Any) -> Any:
            self._came.release()
            await self._gate.wait()
            return await plain(*args, **options)

        monkeypatch.setattr(runner, "run", run)

    async def _event(self) -> asyncio.Event:
        return asyncio.Event()

    def wait(self, pictures: int) -> None:
        for _ in range(pictures):
            assert self._came.acquire(timeout=60)

    def let_go(self) -> None:
        async def go() -> None:
            self._gate.set()

        self._doors.run(go())


@pytest.fixture
def held(transports: Transports, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(transports, monkeypatch)


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def over_http(transports: Transports, key: dict[str, str]) -> httpx.Response:
    return transports.http("POST", "/v1/classify?top_k=1", content=PNG, headers=key)


def over_grpc(transports: Transports, key: dict[str, str]) -> Any:
    return transports.stub.Classify(pb.ClassifyRequest(image=PNG, top_k=1), metadata=tuple(key.items()))


def is_refused(transports: Transports, key: dict[str, str]) -> None:
    answer = over_http(transports, key)
    assert (answer.status_code, answer.json()["code"]) == (429, "key_busy")
    assert answer.headers["retry-after"] == "1"
    with pytest.raises(grpc.RpcError) as caught:
        over_grpc(transports, key)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    info, delay = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "key_busy"
    assert any(detail.Unpack(delay) for detail in status.details)


def test_one_keys_requests_are_counted_over_both_doors_together(
    transports: Transports, held: Held, aside: ThreadPoolExecutor
) -> None:
    first: Future[httpx.Response] = aside.submit(over_http, transports, ONE)
    second: Future[Any] = aside.submit(over_grpc, transports, ONE)
    held.wait(2)
    is_refused(transports, ONE)
    third: Future[httpx.Response] = aside.submit(over_http, transports, TWO)  # another key's own affair
    held.wait(1)
    held.let_go()
    assert (first.result(60).status_code, third.result(60).status_code) == (200, 200)
    assert second.result(60).labels
    assert over_http(transports, ONE).status_code == 200
    assert over_grpc(transports, ONE).labels
    assert transports.counted("http", "classify", "key_busy") == 1
    assert transports.counted("grpc", "classify", "key_busy") == 1


def test_a_stream_is_one_however_many_its_frames(transports: Transports, held: Held) -> None:
    frames = [pb.ClassifyRequest(image=PNG, top_k=1)] * 3
    stream = transports.stub.ClassifyStream(iter(frames), metadata=tuple(ONE.items()))
    held.wait(3)
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(over_http, transports, ONE)
        held.wait(1)
        is_refused(transports, ONE)
        held.let_go()
        assert beside.result(60).status_code == 200
    assert len([frame.result.labels for frame in stream]) == 3
    assert over_grpc(transports, ONE).labels


def test_a_request_that_fails_or_is_given_up_is_over(transports: Transports, held: Held) -> None:
    for _ in range(3):
        unknown = transports.http("POST", "/v1/classify?model=none", content=PNG, headers=ONE)
        assert unknown.status_code == 404
        assert transports.http("POST", "/v1/nothing", headers=ONE).status_code == 404
        with pytest.raises(grpc.RpcError):
            transports.stub.Classify(pb.ClassifyRequest(image=PNG), metadata=tuple(ONE.items()), timeout=0.05)
    held.let_go()
    assert over_http(transports, ONE).status_code == 200


def test_the_count_itself() -> None:
    access = Auth(["one", "two"], concurrency=1)
    first = access.acquire(None, "one")
    with pytest.raises(KeyBusy):
        access.acquire("Bearer one", None)
    assert access.acquire(None, "two") is not None
    with pytest.raises(Unauthenticated):
        access.acquire(None, "three")
    access.release(first)
    assert access.acquire(None, "one") == first


@pytest.mark.parametrize("access", [Auth(), Auth(concurrency=1), Auth(["one"])])
def test_without_keys_or_without_a_number_nothing_is_counted(access: Auth) -> None:
    for _ in range(3):
        assert access.acquire(None, "one") is None
    access.release(None)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/classify", "image/png"),
        ("/v1/faces/compare", "application/json"),
        ("/v2/models/lenet5/infer", "application/json"),
    ],
)
def test_a_body_that_stops_half_way_is_answered_and_its_connection_closed(
    transports: Transports, path: str, kind: str
) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield PNG[:20]
        await asyncio.sleep(3600)

    answer = transports.http("POST", path, content=half(), headers=ONE | {"content-type": kind})
    assert answer.status_code == 408
    assert answer.headers["connection"] == "close"
    if path.startswith("/v1"):
        assert answer.json()["code"] == "request_timeout"


def test_a_body_that_comes_slowly_but_steadily_is_read(transports: Transports) -> None:
    async def steady() -> AsyncIterator[bytes]:
        step = len(PNG) // 9
        for start in range(0, len(PNG), step):  # longer in all than a pause may be
            await asyncio.sleep(0.1)
            yield PNG[start : start + step]

    assert transports.http("POST", "/v1/classify?top_k=1", content=steady(), headers=ONE).status_code == 200


def test_the_deadline_comes_before_the_pause(transports: Transports) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield PNG[:20]
        await asyncio.sleep(3600)

    headers = ONE | {"x-timeout-ms": "50"}
    answer = transports.http("POST", "/v1/classify", content=half(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_a_request_of_many_images_does_not_fill_the_queue_alone() -> None:
    with open_transports([pipeline("lenet5")], max_queue=2) as transports:
        images = [("image", (f"{index}.png", PNG, "image/png")) for index in range(12)]
        answer = transports.http("POST", "/v1/classify", files=images)
        assert answer.status_code == 200
        assert all("labels" in result for result in answer.json()["results"])
        assert len(answer.json()["results"]) == 12


def test_a_request_of_images_of_which_none_is_right_does_not_count_as_right() -> None:
    with open_transports([pipeline("lenet5")]) as transports:
        images = [("image", ("0.png", b"nothing", "image/png"))] * 2
        answer = transports.http("POST", "/v1/classify", files=images)
        assert [result["code"] for result in answer.json()["results"]] == ["media_type"] * 2
        assert transports.counted("http", "classify", "ok") == 0
        assert transports.counted("http", "classify", "media_type") == 1


def test_internal_errors_are_counted_from_the_start() -> None:
    with open_transports([pipeline("lenet5")]) as transports:
        for transport, task in (("http", "faces_verify"), ("http", "infer"), ("grpc", "classify")):
            labels = {"task": task, "transport": transport, "code": "internal"}
            assert transports.metrics.registry.get_sample_value("lynceus_requests_total", labels) == 0.0


def test_long_work_that_waits_ends_at_its_deadline() -> None:
    """Behind another piece, which is done nevertheless."""
    with open_transports([pipeline("lenet5")]) as transports:
        held = threading.Event()
        done: list[str] = []

        async def go() -> str:
            offload = transports.engine.offload
            first = asyncio.ensure_future(offload.run(lambda _: held.wait(60)))
            await asyncio.sleep(0)
            with pytest.raises(DeadlineExceeded):
                await offload.run(lambda _: done.append("late"), time.monotonic() + 0.05)
            held.set()
            await first
            return await offload.run(lambda _: "next")

        assert transports.run(go()) == "next"
        assert done == []


def test_an_unknown_model_is_wrong_for_all_images_at_once() -> None:
    with open_transports([pipeline("lenet5")]) as transports:
        images = [("image", ("0.png", PNG, "image/png"))] * 2
        answer = transports.http("POST", "/v1/classify?model=none", files=images)
        assert (answer.status_code, answer.json()["code"]) == (404, "model_unknown")
