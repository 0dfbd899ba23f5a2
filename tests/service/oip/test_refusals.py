"""Bad requests of the Open Inference Protocol: the table's status and useful words, over both transports."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from service.oip.stubs import open_inference_pb2 as pb
from service.oip.stubs.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.service.rpc.test_vision import digit
from tests.service.transports import Transports, open_transports, pipeline

INFER = "/v2/models/lenet5/infer"
HEADER = "Inference-Header-Content-Length"
GOOD = base64.b64encode(digit(5)).decode()
Z = np.zeros((32, 32, 3), np.uint8).tolist()


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("lenet5")], max_images=4, max_body_bytes=1024 * 1024) as transports:
        yield transports


def image(*data: object, **other: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": list(data), **other}


def text(words: bytes) -> str:
    return base64.b64encode(words).decode()


@pytest.mark.parametrize(
    ("document", "status", "words"),
    [
        ({"inputs": []}, 422, "0 inputs; send one, image or pixels"),
        ({"inputs": [image(GOOD), image(GOOD)]}, 422, "2 inputs"),
        ({"inputs": [image(GOOD, name="picture")]}, 422, "no input 'picture'; send image or pixels"),
        ({"inputs": [image(GOOD, datatype="UINT8")]}, 422, "'image' is BYTES, not UINT8"),
        ({"inputs": [image(GOOD, datatype="JPEG")]}, 422, "not JPEG"),
        ({"inputs": [image(GOOD, shape=[1, 2])]}, 422, "[-1, 1], not [1, 2]"),
        ({"inputs": [image(GOOD, shape=[])]}, 422, "not []"),
        ({"inputs": [image(GOOD, shape=[2])]}, 422, "1 elements, but the shape [2] has 2"),
        ({"inputs": [image()]}, 422, "from 1 to 4 images, not 0"),
        ({"inputs": [image(*[GOOD] * 5)]}, 422, "not 5"),
        ({"inputs": [image("no base64")]}, 400, "image[0] is not valid base64"),
        ({"inputs": [image(GOOD, text(b"no picture"))]}, 415, "image[1]: "),
        ({"inputs": [image(text(digit(1)[:60]))]}, 400, "truncated"),
        ({"inputs": [{**image(Z), "name": "pixels", "datatype": "UINT8"}]}, 422, "[-1, 32, 32, 3], not [1]"),
        (
            {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 32, 32, 3], "data": [Z]}]},
            422,
            "UINT8, not FP32",
        ),
        (
            {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": [Z]}]},
            422,
            "3072 values",
        ),
        (
            {"inputs": [image(GOOD)], "outputs": [{"name": "logits"}]},
            422,
            "no output 'logits'",
        ),
        ({"inputs": [image(GOOD)], "outputs": [{"name": "scores"}] * 2}, 422, "asked for twice"),
        (
            {
                "inputs": [image(GOOD)],
                "outputs": [{"name": "scores", "parameters": {"classification": 11}}],
            },
            422,
            "classification must be from 1 to 10",
        ),
        ({"inputs": [image(GOOD)], "parameters": {"top_k": 0}}, 422, "top_k must be from 1 to 10"),
        ({"inputs": [image(GOOD)], "parameters": {"topk": 1}}, 422, "no parameter 'topk'"),
        ({"inputs": [image(GOOD)], "parameters": {"timeout": -1}}, 422, "timeout: "),
        ({"inputs": [image(GOOD)], "parameters": {"priority": "high"}}, 422, "priority"),
        ({"inputs": [image(GOOD)], "parameters": {"timeout": 1}}, 504, "deadline"),
    ],
)
def test_http(transports: Transports, document: dict[str, Any], status: int, words: str) -> None:
    answer = transports.http("POST", INFER, json=document)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert answer.headers["content-type"] == "application/json"
    assert words in answer.json()["error"]
    good = {"inputs": [image(GOOD)], "parameters": {"timeout": 10_000_000, "priority": 1}}
    assert transports.http("POST", INFER, json=good).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (digit(1), {}, 422, "Inference-Header-Content-Length: 0"),
        (digit(1), {HEADER: "7"}, 422, "not JSON"),
        (b"", {HEADER: "0"}, 400, "empty"),
        (b"", {}, 422, "not JSON"),
        (digit(1), {HEADER: "100000"}, 422, "the body has"),
        (digit(1), {HEADER: "1" * 5000}, 422, "the body has"),
        (b"{}", {"content-encoding": "gzip"}, 422, "not gzip"),
        (b"{}", {"content-encoding": "br"}, 415, "'br'"),
        (bytes(1024 * 1024 + 1), {HEADER: "0"}, 413, "1048577 bytes"),
        (digit(1), {HEADER: "0", "x-timeout-ms": "never"}, 422, "X-Timeout-Ms"),
    ],
)
def test_http_bodies(
    transports: Transports, content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answer = transports.http("POST", INFER, content=content, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert words in answer.json()["error"]


def test_sizes_in_the_binary_extension_that_contradict_the_shape(transports: Transports) -> None:
    for shape, packed in (
        ([2], b"\x01\0\0\0x"),
        ([1], b"\x09\0\0\0x"),
        ([1], b"\x01\0\0\0xmore"),
        ([1], b""),
    ):
        entry = {"name": "image", "datatype": "BYTES", "shape": shape}
        head = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(packed)}}]}).encode()
        answer = transports.http("POST", INFER, content=head + packed, headers={HEADER: str(len(head))})
        assert answer.status_code == 422, answer.text
        assert "the input 'image'" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v2/models/unknown/infer", 404, "no model named 'unknown'"),
        ("POST", "/v2/models/lenet5/versions/2/infer", 404, "no version '2'"),
        ("GET", "/v2/models/unknown", 404, "these are: lenet5"),
        ("GET", "/v2/models/lenet5/versions/2", 404, "no version"),
        ("GET", "/v2/models/unknown/ready", 404, "unknown"),
        ("GET", "/v2/models/unknown/config", 404, "unknown"),
        ("GET", "/v2/models/unknown/stats", 404, "unknown"),
        ("POST", "/v2/repository/models/lenet5/load", 404, "there is no"),
        ("GET", "/v2/nothing", 404, "there is no"),
        ("GET", "/v2/models/lenet5/infer", 405, "GET"),
    ],
)
def test_paths(transports: Transports, method: str, path: str, status: int, words: str) -> None:
    body = {"json": {"inputs": [image(GOOD)]}} if method == "POST" else {}
    answer = transports.http(method, path, **body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert words in answer.json()["error"]


def test_grpc(transports: Transports) -> None:
    stub = GRPCInferenceServiceStub(transports.channel)
    packed = len(digit(5)).to_bytes(4, "little") + digit(5)

    def request(**changes: Any) -> pb.ModelInferRequest:
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], **changes.pop("tensor", {})}
        fields = {"model_name": "lenet5", "inputs": [tensor], "raw_input_contents": [packed], **changes}
        return pb.ModelInferRequest(**fields)

    def parameters(**values: int) -> dict[str, pb.InferParameter]:
        return {name: pb.InferParameter(int64_param=value) for name, value in values.items()}

    assert stub.ModelInfer(request()).model_name == "lenet5"
    assert stub.ModelInfer(request(parameters={"priority": pb.InferParameter(uint64_param=1)})).outputs
    refused = [
        (request(model_name="unknown"), grpc.StatusCode.NOT_FOUND, "unknown"),
        (request(model_version="7"), grpc.StatusCode.NOT_FOUND, "no version"),
        (request(raw_input_contents=[packed, packed]), grpc.StatusCode.INVALID_ARGUMENT, "2 raw contents"),
        (request(raw_input_contents=[packed[:-1]]), grpc.StatusCode.INVALID_ARGUMENT, "claims"),
        (request(raw_input_contents=[]), grpc.StatusCode.INVALID_ARGUMENT, "0 elements"),
        (
            request(tensor={"contents": pb.InferTensorContents(bytes_contents=[b"x"])}),
            grpc.StatusCode.INVALID_ARGUMENT,
            "both raw and typed",
        ),
        (request(tensor={"shape": [-1]}), grpc.StatusCode.INVALID_ARGUMENT, "negative"),
        (request(tensor={"datatype": "INT8"}), grpc.StatusCode.INVALID_ARGUMENT, "not INT8"),
        (
            request(tensor={"parameters": {"shared_memory_region": pb.InferParameter(string_param="r")}}),
            grpc.StatusCode.INVALID_ARGUMENT,
            "shared memory",
        ),
        (request(outputs=[{"name": "logits"}]), grpc.StatusCode.INVALID_ARGUMENT, "logits"),
        (request(parameters={"top_k": pb.InferParameter()}), grpc.StatusCode.INVALID_ARGUMENT, "no value"),
        (request(parameters=parameters(timeout=1)), grpc.StatusCode.DEADLINE_EXCEEDED, "deadline"),
        (
            request(raw_input_contents=[b"\x07\0\0\0picture"]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "",
        ),
    ]
    for wrong, code, words in refused:
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(wrong)
        assert error.value.code() is code, error.value.details()
        assert words in error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelMetadata(pb.ModelMetadataRequest(name="lenet5", version="x"))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert stub.ModelInfer(request()).model_name == "lenet5"


def test_keys_guard_all_but_health() -> None:
    with open_transports([pipeline("lenet5")], api_keys="secret") as transports:
        assert transports.http("GET", "/v2/health/ready").status_code == 200
        for method, path in (("GET", "/v2"), ("GET", "/v2/models/stats"), ("POST", INFER)):
            answer = transports.http(method, path)
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
            assert answer.headers["www-authenticate"] == "Bearer"
        assert transports.counted("http", "infer", "unauthenticated") == 1
        assert transports.http("GET", "/v2", headers={"x-api-key": "secret"}).status_code == 200
        with pytest.raises(grpc.RpcError) as error:
            GRPCInferenceServiceStub(transports.channel).ServerMetadata(pb.ServerMetadataRequest())
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_failed_element_calls_the_others_off(transports: Transports) -> None:
    before = transports.engine.runners["lenet5"]._admitted
    answer = transports.http("POST", INFER, json={"inputs": [image(GOOD, text(b"bad"), GOOD, text(b"bad"))]})
    assert answer.json()["error"].startswith(("image[1]", "image[3]"))
    assert transports.engine.runners["lenet5"]._admitted == before == 0


def test_the_document_shows_the_routes(transports: Transports) -> None:
    document = transports.http("GET", "/openapi.json").json()
    route = document["paths"]["/v2/models/{model}/infer"]["post"]
    assert route["tags"] == ["open inference"]
    assert set(route["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
    assert route["responses"]["404"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorAnswer")
    assert "/v2/models/{model}/versions/{version}/stats" in document["paths"]
