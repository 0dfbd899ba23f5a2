"""Bodies of requests: their memory is counted as they come, and no text of theirs comes back whole."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from service.engine.memory import MemoryBudget
from tests.paths import SHARED, needs_shared
from tests.service.rpc.test_vision import digit
from tests.service.transports import Transports, open_transports, pipeline

INFER = "/v2/models/lenet5/infer"
HEADER = "Inference-Header-Content-Length"
MIB = 1024 * 1024
LONG = "x" * 200_000


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports(
        [pipeline("lenet5")], decode_memory_bytes=8 * MIB, max_image_bytes=2 * MIB
    ) as transports:
        yield transports


def image(**other: Any) -> dict[str, Any]:
    text = base64.b64encode(digit(5)).decode()
    return {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text], **other}


def budget(transports: Transports) -> MemoryBudget:
    return transports.engine.memory


@pytest.fixture(autouse=True)
def nothing_is_left(transports: Transports) -> Iterator[None]:
    yield
    assert budget(transports).bodies == 0
    assert transports.http("POST", "/v1/classify?top_k=1", content=digit(5)).status_code == 200


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/classify", "image/png"),
        ("/v1/classify", "multipart/form-data; boundary=b"),
        ("/v1/classify", "application/json"),
        ("/v1/faces/compare", "application/json"),
        (INFER, "application/octet-stream"),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_bodies_that_stop_half_way_hold_their_bytes_and_no_more_than_there_are(
    transports: Transports, path: str, kind: str, declared: bool
) -> None:
    come, go_on = threading.Semaphore(0), threading.Event()
    part = bytes(MIB // 2)

    async def slow() -> AsyncIterator[bytes]:
        yield part
        come.release()
        while not go_on.is_set():  # noqa: ASYNC110 (set by another thread)
            await asyncio.sleep(0.01)
        yield b"x"

    headers = {"content-type": kind}
    if declared:
        headers["content-length"] = str(len(part) + 1)

    async def ask() -> Any:
        return await transports._client.request("POST", path, content=slow(), headers=headers)

    several = [asyncio.run_coroutine_threadsafe(ask(), transports._loop) for _ in range(8)]
    for _ in several:
        assert come.acquire(timeout=60)
    assert budget(transports).bodies == 8 * len(part) == budget(transports).total // 2
    one_more = transports.http("POST", path, content=b"x", headers={"content-type": kind})
    assert one_more.status_code == 503
    assert one_more.headers["retry-after"] == "1"
    go_on.set()
    answers = [asking.result(60) for asking in several]
    assert all(answer.status_code >= 400 for answer in answers)


@pytest.mark.parametrize("header", [None, "0"])
def test_what_a_body_inflates_to_is_counted(transports: Transports, header: str | None) -> None:
    packed = gzip.compress(bytes(6 * MIB))
    headers = {"content-encoding": "gzip"} | ({HEADER: header} if header else {})
    answer = transports.http("POST", INFER, content=packed, headers=headers)
    assert answer.status_code == 503
    assert "bytes of requests" in answer.json()["error"]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_json_text_beyond_some_megabytes_is_413_and_told_of_the_binary_form(
    transports: Transports, encoding: str
) -> None:
    with open_transports([pipeline("lenet5")], max_image_bytes=MIB) as large:
        text = json.dumps({"inputs": [image()]}).encode()
        for size, status in ((8 * MIB, 200), (8 * MIB + 1, 413)):
            body = text + b" " * (size - len(text))
            content = gzip.compress(body) if encoding == "gzip" else body
            answer = large.http("POST", INFER, content=content, headers={"content-encoding": encoding})
            assert answer.status_code == status, answer.text
        assert "binary form" in answer.json()["error"]
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
        head = json.dumps(
            {"inputs": [{**tensor, "parameters": {"binary_data_size": 3072}}], "id": "x"}
        ).encode()
        binary = large.http("POST", INFER, content=head + bytes(3072), headers={HEADER: str(len(head))})
        assert binary.status_code == 200
        long = head + b" " * (8 * MIB)
        refused = large.http("POST", INFER, content=long + bytes(3072), headers={HEADER: str(len(long))})
        assert (refused.status_code, HEADER in refused.json()["error"]) == (413, True)


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": [image(name=LONG)]},
        {"inputs": [image(datatype=LONG)]},
        {"inputs": [image(shape=[2**62] * 8)]},
        {"inputs": [image(shape=[1] * 100_000)]},
        {"inputs": [image(data=[LONG + "!"])]},
        {"inputs": [image(parameters={"shared_memory" + LONG: 1})]},
        {"inputs": [image(parameters={"binary_data_size": 1}, name=LONG)]},
        {"inputs": [image()], "outputs": [{"name": LONG}]},
        {"inputs": [image()], "outputs": [{"name": "a"}] * 65},
        {"inputs": [image()] * 9},
        {"inputs": [image()], "parameters": {LONG: 1}},
        {"inputs": [image()], "parameters": {LONG: []}},
        {"inputs": [image()], "parameters": {"top_k": LONG}},
        {"inputs": [image()], "parameters": {"timeout": "9" * 200_000}},
        {"inputs": [image()], "parameters": {str(number): 1 for number in range(65)}},
        {"inputs": [image()], "id": LONG},
        {"inputs": [image(name="pixels", datatype="UINT8", shape=[1, 32, 32, 3], data=[LONG])]},
        {"inputs": [image(data=[[[[[[[[[[1]]]]]]]]]])]},
    ],
)
def test_no_error_repeats_a_long_text(transports: Transports, document: Any) -> None:
    for model in ("lenet5", "n" * 5000):
        answer = transports.http("POST", f"/v2/models/{model}/infer", json=document)
        assert answer.status_code in (400, 404, 413, 422)
        assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/v1/" + LONG[:60_000], {}),
        (LONG[:1000], "/v1/models", {}),
        ("GET", "/v1/models/" + LONG[:60_000], {}),
        ("GET", f"/v1/models/{LONG[:60_000]}/filters", {}),
        ("GET", f"/v1/styles/{LONG[:60_000]}/thumbnail", {}),
        ("GET", "/v2/models/" + LONG[:60_000], {}),
        ("GET", "/v2/models/lenet5/versions/" + LONG[:60_000], {}),
        ("POST", "/v1/classify?model=" + LONG[:60_000], {}),
        ("POST", "/v1/classify?top_k=" + LONG[:60_000], {}),
        ("POST", "/v1/classify/explain?label=" + LONG[:60_000], {}),
        ("POST", "/v1/faces/verify", {"content-type": LONG}),
        ("POST", "/v1/classify", {"content-type": "multipart/form-data; boundary=" + LONG}),
        ("POST", "/v1/classify", {"x-timeout-ms": LONG}),
        ("POST", "/v1/faces/compare", {"content-type": LONG}),
        ("POST", INFER, {"content-encoding": LONG}),
        ("POST", INFER, {HEADER: LONG}),
        ("POST", INFER, {HEADER: "9" * 4000}),
    ],
)
def test_no_error_repeats_a_long_path_or_header(
    transports: Transports, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = transports.http(method, path, headers=headers, content=digit(5) if method == "POST" else b"")
    assert answer.status_code in (400, 404, 405, 415, 422)
    assert len(answer.content) < 1000


HOSTILE = SHARED / "cases" / "hostile"


@needs_shared
@pytest.mark.parametrize("name", ["v2-lists", "v2-data-lists", "v2-data-deep-8m", "v2-outputs", "v2-shape"])
def test_hostile_json_is_refused(name: str) -> None:
    content = (HOSTILE / f"{name}.json.gz").read_bytes()
    with open_transports([pipeline("lenet5")]) as transports:
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        answer = transports.http("POST", INFER, content=content, headers=headers)
        assert answer.status_code == 413
        assert "binary form" in answer.json()["error"]


@needs_shared
def test_hostile_multipart_is_refused(transports: Transports) -> None:
    content = (HOSTILE / "multipart-padding.multipart").read_bytes()
    for several in (1, 40):
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = transports.http("POST", "/v1/classify", content=content * min(several, 20), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid")


def test_numbers_in_json_and_in_binary_are_one_tensor(transports: Transports) -> None:
    pixels = [[[[row, column, 7] for column in range(32)] for row in range(32)]]
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
    flat = [value for rows in pixels[0] for pixel in rows for value in pixel]
    answers = [
        transports.http("POST", INFER, json={"inputs": [{**tensor, "data": data}]}).json()["outputs"]
        for data in (pixels, flat, pixels[0])
    ]
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 3072}}]}).encode()
    binary = transports.http("POST", INFER, content=head + bytes(flat), headers={HEADER: str(len(head))})
    answers.append(binary.json()["outputs"])
    assert all(answer == answers[0] for answer in answers)
