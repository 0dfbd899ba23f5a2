"""What real clients send: the files of `../shared/cases`, as its README says they are to be answered."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import pytest

from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from tests.paths import SHARED
from tests.server import Server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (SHARED / "cases").exists(), reason="the shared cases are not beside the checkout"
    ),
]

OCTETS = "application/octet-stream"
JSON = "application/json"
FORM = "multipart/form-data; boundary=X"
IMAGES = (
    "small.jpg",
    "lossless-520.jpg",
    "alpha-49mp.webp",
    "picture.gif",
    "picture.avif",
    "png-iccp-2mb.png",
    "png-text-bad-crc.png",
    "bmpsuite-rgb32bf.bmp",
    "bmpsuite-pal8rle.bmp",
    "exif-empty-then-6.jpg",
    "jpeg-12-bit.jpg",
)
REFUSED = {"lossless-520.jpg": "lossless", "jpeg-12-bit.jpg": "12-bit"}
OTHER = ("alpha-49mp.webp", "bmpsuite-rgb32bf.bmp", "bmpsuite-pal8rle.bmp")
"""Not of the dog."""


def case(name: str) -> bytes:
    return (SHARED / "cases" / name).read_bytes()


def post(
    client: httpx.Client, name: str, kind: str = OCTETS, path: str = "/v1/classify?top_k=1"
) -> httpx.Response:
    return client.post(path, content=case(name), headers={"Content-Type": kind})


def test_every_file_has_a_test() -> None:
    mine = Path(__file__).read_text(encoding="utf-8")
    files = [path.name for path in (SHARED / "cases").iterdir() if path.is_file() and path.suffix != ".md"]
    assert [name for name in files if name not in mine] == []


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_over_both_transports(client: httpx.Client, server: Server, name: str) -> None:
    answer = post(client, name)
    with grpc.insecure_channel(server.grpc_address) as channel:
        request = pb.ClassifyRequest(image=case(name), top_k=1)
        if name in REFUSED:
            assert answer.status_code == 400
            assert REFUSED[name] in answer.json()["detail"]
            with pytest.raises(grpc.RpcError) as caught:
                VisionStub(channel).Classify(request, timeout=30)
            assert str(caught.value.details()) == answer.json()["detail"]
            return
        assert answer.status_code == 200, answer.text
        (label,) = answer.json()["labels"]
        reply = VisionStub(channel).Classify(request, timeout=30)
    assert (reply.labels[0].label, round(reply.labels[0].score, 4)) == (
        label["label"],
        round(label["score"], 4),
    )
    if name == "exif-empty-then-6.jpg":
        assert answer.json()["image"] == {"width": 144, "height": 192}
    elif name not in OTHER:
        assert label["label"] == "German shepherd"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("small.jpg", "image/jpg"),
        ("small.jpg", "application/x-image"),
        ("small.jpg", "application/x-www-form-urlencoded"),
        ("b64-mime-lines.json", JSON),
        ("b64-urlsafe.json", JSON),
        ("json-bom.json", JSON),
        ("json-top_k.json", JSON),
        ("mp-top_k-field.multipart", FORM),
        ("mp-no-filename.multipart", FORM),
        ("mp-field-file.multipart", FORM),
    ],
)
def test_a_body(client: httpx.Client, name: str, kind: str) -> None:
    answer = post(client, name, kind, "/v1/classify")
    assert answer.status_code == 200, answer.text
    labels = answer.json()["labels"]
    assert labels[0]["label"] == "German shepherd"
    if "top_k" in name:
        given = json.loads(case(name))["top_k"] if kind == JSON else None
        assert len(labels) == given if given else len(labels) < 5


@pytest.mark.parametrize("name", ["v2-id-null.json", "v2-parameters-null.json"])
def test_nulls_of_open_inference(client: httpx.Client, name: str) -> None:
    answer = post(client, name, JSON, "/v2/models/efficientnet-lite0/infer")
    assert answer.status_code == 200, answer.text


def test_an_offered_upgrade(server: Server) -> None:
    """h2c-post.http, as the bytes are."""
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), address.port), 30) as connection:
        connection.sendall(case("h2c-post.http"))
        received = b""
        while b"German shepherd" not in received:
            part = connection.recv(65536)
            assert part, received
            received += part
    assert received.startswith(b"HTTP/1.1 200 ")


def test_health_with_a_slash_and_by_head(client: httpx.Client) -> None:
    assert client.get("/livez/").status_code == 200
    assert client.head("/v2/health/ready").status_code == 200
    refused = client.post("/livez")
    assert (refused.status_code, "GET" in refused.headers.get("allow", "")) == (405, True)


def test_an_old_client_gets_the_answer_and_not_an_image(client: httpx.Client) -> None:
    accept = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
    answer = client.post("/v1/detect", content=case("small.jpg"), headers={"Accept": accept})
    assert answer.headers["content-type"] == JSON


def test_classes_that_are_repeated(client: httpx.Client, dog: bytes) -> None:
    answer = client.post("/v1/detect", params={"classes": ["bicycle", "dog"]}, content=dog)
    assert {found["label"] for found in answer.json()["detections"]} == {"bicycle", "dog"}
