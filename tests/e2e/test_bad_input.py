"""Bad input over real HTTP: the documented status and code, words that help, and a server that goes on."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import struct
import zipfile
import zlib
from collections import Counter

import httpx
import pytest

from tests.server import Server

pytestmark = pytest.mark.e2e
JPEG = {"content-type": "image/jpeg"}


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def a_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(10_000_000))
    return out.getvalue()


@pytest.fixture(autouse=True)
def still_serves(client: httpx.Client, dog: bytes):  # type: ignore[no-untyped-def]
    yield
    assert client.post("/v1/classify", content=dog, headers=JPEG).status_code == 200


def refused(answer: httpx.Response, status: int, code: str, *words: str) -> dict[str, object]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, object] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert answer.headers["x-request-id"]
    text = str(body["detail"])
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    for word in words:
        assert word in text, text
    return body


@pytest.mark.parametrize(
    ("data", "kind", "status", "code", "word"),
    [
        (b"GIF89a" + bytes(20), "image/gif", 400, "image_invalid", "0 by 0"),
        (b"%PDF-1.7\n" + bytes(20), "image/jpeg", 415, "media_type", "a PDF"),
        (b"just some words\n" * 20, "image/jpeg", 415, "media_type", ""),
        (b"", "image/jpeg", 400, "image_invalid", "empty"),
        (a_zip(), "application/octet-stream", 415, "media_type", ""),
        (a_zip(), "application/zip", 415, "media_type", "image/jpeg"),
        (png(50_000, 50_000), "image/png", 413, "image_too_large", "50000"),
        (png(0, 0), "image/png", 400, "image_invalid", "0 by 0"),
        (png(8, 8, b"not deflated"), "image/png", 400, "image_invalid", ""),
        (bytes(5 * 1024 * 1024), "image/png", 413, "image_too_large", str(5 * 1024 * 1024)),
        (b"x", "text/plain", 415, "media_type", "image/jpeg"),
    ],
)
def test_bodies(client: httpx.Client, data: bytes, kind: str, status: int, code: str, word: str) -> None:
    refused(client.post("/v1/classify", content=data, headers={"content-type": kind}), status, code, word)


def test_a_truncated_jpeg(client: httpx.Client, dog: bytes) -> None:
    refused(client.post("/v1/classify", content=dog[: len(dog) // 2], headers=JPEG), 400, "image_invalid")


def test_a_bomb_inside_a_small_header(client: httpx.Client) -> None:
    bomb = png(8, 8, zlib.compress(bytes(50_000_000), 9))  # 50 MB of rows behind a header of 8 x 8
    assert client.post("/v1/classify", content=bomb, headers={"content-type": "image/png"}).status_code in (
        200,
        400,
    )


def test_a_compressed_body(client: httpx.Client, dog: bytes) -> None:
    bomb = {**JPEG, "content-encoding": "gzip"}
    answer = client.post("/v1/classify", content=gzip.compress(bytes(50_000_000)), headers=bomb)
    refused(answer, 413, "image_too_large", "decompressed")
    other = {**JPEG, "content-encoding": "br"}
    refused(client.post("/v1/classify", content=dog, headers=other), 415, "media_type", "gzip or deflate")


def test_a_chunked_body_is_counted(client: httpx.Client) -> None:
    answer = client.post("/v1/classify", content=(bytes(65536) for _ in range(80)), headers=JPEG)
    refused(answer, 413, "image_too_large", "bytes")


def test_multipart_without_an_image(client: httpx.Client, dog: bytes) -> None:
    two = {"photo": dog, "other": dog}
    body = refused(client.post("/v1/classify", files=two), 422, "parameter_invalid", "image", "photo")
    assert body["parameter"] == "image"
    refused(client.post("/v1/classify", files={"image": (None, "text")}), 415, "media_type")
    many = [("image", dog)] * 9
    refused(client.post("/v1/classify", files=many), 422, "parameter_invalid", "8 images")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    refused(
        client.post("/v1/classify", content=b"nothing of the kind", headers=broken), 422, "parameter_invalid"
    )
    unbounded = {"content-type": "multipart/form-data"}
    refused(client.post("/v1/classify", content=b"--x", headers=unbounded), 422, "parameter_invalid")


def test_json(client: httpx.Client) -> None:
    refused(client.post("/v1/classify", json={"image": "%%%"}), 400, "image_invalid", "base64")
    refused(client.post("/v1/classify", json={"picture": ""}), 422, "parameter_invalid", "image")
    refused(client.post("/v1/classify", json={"image": 3}), 422, "parameter_invalid", "base64")
    refused(client.post("/v1/classify", json=[]), 422, "parameter_invalid", "object")
    broken = {"content-type": "application/json"}
    refused(client.post("/v1/classify", content=b"{", headers=broken), 422, "parameter_invalid", "JSON")


@pytest.mark.parametrize("value", ["0", "-1", str(10**9), "many", "1.5", ""])
def test_top_k_out_of_range(client: httpx.Client, dog: bytes, value: str) -> None:
    answer = client.post(f"/v1/classify?top_k={value}", content=dog, headers=JPEG)
    assert refused(answer, 422, "parameter_invalid", "top_k")["parameter"] == "top_k"


def test_unknown_names(client: httpx.Client, dog: bytes) -> None:
    answer = client.post("/v1/classify?model=resnet9000", content=dog, headers=JPEG)
    refused(answer, 404, "model_unknown", "resnet9000", "efficientnet-lite0")
    refused(client.get("/v1/models/resnet9000"), 404, "model_unknown", "resnet9000")
    refused(client.get("/v1/nothing"), 404, "not_found", "/v1/nothing")
    refused(client.get("/v1/classify"), 405, "method_not_allowed", "GET")


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "inf"])
def test_a_timeout_that_is_none(client: httpx.Client, dog: bytes, value: str) -> None:
    answer = client.post("/v1/classify", content=dog, headers={**JPEG, "X-Timeout-Ms": value})
    assert refused(answer, 422, "parameter_invalid")["parameter"] == "X-Timeout-Ms"


def test_a_deadline_that_cannot_be_met(client: httpx.Client, dog: bytes) -> None:
    answer = client.post("/v1/classify", content=dog, headers={**JPEG, "X-Timeout-Ms": "0.01"})
    refused(answer, 504, "deadline_exceeded")


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_client_that_hangs_up(server: Server, dog: bytes, share: float) -> None:
    head = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    head += f"Content-Length: {len(dog)}\r\n\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + dog[: int(len(dog) * share)])


def test_200_requests_into_a_queue_of_16(server: Server, dog: bytes) -> None:
    head = (
        f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(dog)}\r\n"
    )
    request = head.encode() + b"Connection: close\r\n\r\n" + dog

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def all_at_once() -> list[bytes]:
        return await asyncio.gather(*(ask() for _ in range(200)))

    answers = asyncio.run(all_at_once())
    statuses = Counter(int(answer.split(b" ", 2)[1]) for answer in answers)
    assert set(statuses) == {200, 429}
    assert statuses[200] >= 32  # two workers, 16 waiting in each
    refusal = next(answer for answer in answers if b" 429 " in answer[:20])
    head_text, body = refusal.split(b"\r\n\r\n", 1)
    assert b"retry-after: " in head_text.lower()
    assert b'"code":"overloaded"' in body
