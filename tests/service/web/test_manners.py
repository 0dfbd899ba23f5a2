"""What clients send besides the plainest request, and what they may expect of HTTP."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from service.web.images import TEXTS, URLENCODED
from tests.service.transports import Transports, open_transports, pipeline, style_pipeline

PNG = bytes(cv2.imencode(".png", np.arange(3072, dtype=np.uint8).reshape(32, 32, 3))[1])
TEXT = base64.b64encode(PNG).decode()
CLASSIFY = "/v1/classify"
# what the JDK's URLConnection sends
JDK = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("lenet5"), style_pipeline()], max_images=4) as transports:
        yield transports


@pytest.fixture(scope="module")
def labels(transports: Transports) -> list[dict[str, Any]]:
    answer = transports.http("POST", CLASSIFY, content=PNG)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["labels"]
    return found


@pytest.mark.parametrize(
    "kind", ["image/jpg", "application/x-image", URLENCODED, "text/plain", "", "image/png; q=1"]
)
def test_the_bytes_decide_and_not_the_declared_type(
    transports: Transports, labels: list[Any], kind: str
) -> None:
    answer = transports.http("POST", CLASSIFY, content=PNG, headers={"Content-Type": kind})
    assert answer.json()["labels"] == labels


def test_a_form_of_names_and_values_is_told_how_to_send_an_image(transports: Transports) -> None:
    answer = transports.http("POST", CLASSIFY, data={"image": TEXT})
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["detail"]


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(PNG).decode(),
        "\r\n".join(TEXT[at : at + 76] for at in range(0, len(TEXT), 76)),
        base64.urlsafe_b64encode(PNG).decode(),
        base64.urlsafe_b64encode(PNG).decode().rstrip("="),
        "data:image/png;base64," + TEXT,
    ],
)
def test_base64_as_it_is_written(transports: Transports, labels: list[Any], text: str) -> None:
    assert transports.http("POST", CLASSIFY, json={"image": text}).json()["labels"] == labels
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    assert transports.http("POST", "/v2/models/lenet5/infer", json={"inputs": [tensor]}).status_code == 200


@pytest.mark.parametrize("text", ["no base64", "*", TEXT + "!", TEXT[:-3]])
def test_what_is_no_base64(transports: Transports, text: str) -> None:
    answer = transports.http("POST", CLASSIFY, json={"image": text})
    assert (answer.status_code, answer.json()["code"]) == (400, "image_invalid")


def test_parameters_as_query_field_or_key(transports: Transports) -> None:
    for answer in (
        transports.http("POST", CLASSIFY + "?top_k=2", content=PNG),
        transports.http("POST", CLASSIFY, files={"image": PNG}, data={"top_k": "2"}),
        transports.http("POST", CLASSIFY, json={"image": TEXT, "top_k": 2, "model": None}),
        transports.http(
            "POST", CLASSIFY + "?top_k=2", json={"image": TEXT, "top_k": 3}
        ),  # the query's counts
    ):
        assert len(answer.json()["labels"]) == 2
    several = transports.http("POST", CLASSIFY, json={"image": [TEXT, TEXT], "top_k": 1}).json()
    assert [len(one["labels"]) for one in several["results"]] == [1, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"params": {"top_kk": 1}, "content": PNG},
        {"files": {"image": PNG}, "data": {"top_kk": "1"}},
        {"json": {"image": TEXT, "top_kk": 1}},
    ],
)
def test_an_unknown_name_is_refused_and_the_nearest_is_named(
    transports: Transports, options: dict[str, Any]
) -> None:
    answer = transports.http("POST", CLASSIFY, **options)
    assert answer.status_code == 422
    assert answer.json()["parameter"] == "top_kk"
    assert "did you mean 'top_k'?" in answer.json()["detail"]


def test_an_unknown_name_of_a_task_within_a_task(transports: Transports) -> None:
    for path, parameter, words in (
        ("/v1/analyze?tasks=classify&classify.topk=1", "classify.topk", "did you mean 'top_k'?"),
        ("/v1/analyze?clasify.top_k=1", "clasify.top_k", "no parameter"),
        ("/v1/analyze?classify=1", "classify", "a group of parameters"),
    ):
        answer = transports.http("POST", path, content=PNG)
        assert (answer.status_code, answer.json()["parameter"]) == (422, parameter)
        assert words in answer.json()["detail"]


@pytest.mark.parametrize("options", [{"params": {"top_k": 0}}, {"data": {"top_k": "0"}}])
def test_a_bound_is_one_wherever_the_parameter_stands(
    transports: Transports, options: dict[str, Any]
) -> None:
    answer = transports.http("POST", CLASSIFY, files={"image": PNG}, **options)
    assert answer.json()["detail"] == "top_k: Input should be greater than or equal to 1"


def test_limits_are_named(transports: Transports) -> None:
    fields = {f"field{number}": "x" for number in range(TEXTS + 6)}
    many = transports.http("POST", CLASSIFY, files={"image": PNG}, data=fields)
    assert f"more than {TEXTS}" in many.json()["detail"]
    long = transports.http("POST", CLASSIFY, files={"image": PNG}, data={"note": "x" * 2_000_000})
    assert "'note' has 2000000 bytes; at most" in long.json()["detail"]


@pytest.mark.parametrize("name", ["id", "parameters", "outputs"])
def test_null_is_as_if_left_out(transports: Transports, name: str) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT], "parameters": None}
    answer = transports.http("POST", "/v2/models/lenet5/infer", json={"inputs": [tensor], name: None})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (JDK, "image/jpeg"),
        ("image/png", "image/png"),
        ("image/avif,image/webp,image/apng,image/*,*/*;q=0.8", "image/webp"),
    ],
)
def test_an_image_is_the_answer_of_a_style_whatever_old_clients_send(
    transports: Transports, accept: str, media: str
) -> None:
    answer = transports.http("POST", "/v1/stylize", content=PNG, headers={"Accept": accept})
    assert answer.headers["content-type"] == media


def test_methods(transports: Transports) -> None:
    refused = transports.http("DELETE", "/v1/models")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert transports.http("GET", CLASSIFY).headers["allow"] == "POST"
    for path in ("/v2/health/ready", "/v1/models", "/metrics"):
        assert transports.http("HEAD", path).status_code == 200


def test_json_with_a_byte_order_mark_or_an_older_type(transports: Transports, labels: list[Any]) -> None:
    for kind, prefix in (
        ("application/json", b"\xef\xbb\xbf"),
        ("text/json", b""),
        ("application/ld+json", b""),
    ):
        body = prefix + json.dumps({"image": TEXT}).encode()
        answer = transports.http("POST", CLASSIFY, content=body, headers={"Content-Type": kind})
        assert answer.json()["labels"] == labels


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes), ("GZIP", gzip.compress)],
)
def test_compressed_bodies(transports: Transports, labels: list[Any], coding: str, pack: Any) -> None:
    for kind, body in (("image/png", PNG), ("application/json", json.dumps({"image": TEXT}).encode())):
        headers = {"Content-Type": kind, "Content-Encoding": coding}
        answer = transports.http("POST", CLASSIFY, content=pack(body), headers=headers)
        assert answer.json()["labels"] == labels


def test_other_routes_take_compressed_bodies(transports: Transports) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    for path, body in (("/v1/faces/compare", {"a": {}}), ("/v2/repository/index", {"ready": True})):
        packed = gzip.compress(json.dumps(body).encode())
        plain = transports.http("POST", path, json=body)
        answer = transports.http("POST", path, content=packed, headers=headers)
        assert (answer.status_code, answer.json()) == (plain.status_code, plain.json())


def test_a_compressed_body_is_bounded_by_what_it_becomes(transports: Transports) -> None:
    bomb = gzip.compress(bytes(30_000_000))
    answer = transports.http("POST", CLASSIFY, content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    broken = transports.http("POST", CLASSIFY, content=b"no gzip", headers={"Content-Encoding": "gzip"})
    assert broken.status_code == 422
    other = transports.http("POST", CLASSIFY, content=PNG, headers={"Content-Encoding": "br"})
    assert other.status_code == 415
