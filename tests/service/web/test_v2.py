"""The Open Inference Protocol's HTTP bodies: parsed, refused where they contradict themselves, rendered."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest

from models.errors import ImageTooLarge, MediaTypeUnsupported, ParameterInvalid
from service.inflater import Inflater
from service.oip.request import InferRequest, InferResponse, take_parameters
from service.oip.tensors import Tensor
from service.web.negotiation import compressed
from service.web.v2.codec import TEXT_BYTES, Binary, header_length, most_text, render
from service.web.v2.codec import parse as parse_within


def body(document: Any, *parts: bytes) -> tuple[bytes, int]:
    text = json.dumps(document).encode()
    return b"".join((text, *parts)), len(text)


def parse(body: bytes, length: int | None, most: int = sys.maxsize) -> tuple[InferRequest, Binary]:
    return parse_within(body, length, most)


def image(**parameters: object) -> dict[str, Any]:
    return {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": parameters}


def test_a_raw_body_is_one_picture() -> None:
    request, layout = parse(b"\xff\xd8 picture", 0)
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("image", "BYTES", (1,))
    assert tensor.elements() == [b"\xff\xd8 picture"]
    assert layout == {None: False}


def test_binary_tensors_follow_in_order_and_json_ones_stand_between() -> None:
    inputs = [
        {"name": "a", "shape": [3], "datatype": "UINT8", "parameters": {"binary_data_size": 3}},
        {"name": "b", "shape": [2], "datatype": "UINT8", "data": [7, 8]},
        {"name": "c", "shape": [0], "datatype": "UINT8", "parameters": {"binary_data_size": 0}},
        {"name": "d", "shape": [1], "datatype": "UINT16", "parameters": {"binary_data_size": 2}},
    ]
    outputs = [{"name": "x", "parameters": {"binary_data": False, "classification": 3}}, {"name": "y"}]
    document = {
        "id": "mine",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {"timeout": 5, "binary_data_output": True},
    }
    request, layout = parse(*body(document, b"\x01\x02\x03", b"\x01\x01"))
    assert [tensor.array().tolist() for tensor in request.inputs] == [[1, 2, 3], [7, 8], [], [257]]
    assert list(request.outputs) == [("x", 3), ("y", None)]
    assert (request.id, request.parameters) == ("mine", {"timeout": 5})
    assert layout == {None: True, "x": False}


@pytest.mark.parametrize(
    ("document", "parts", "words"),
    [
        ({"inputs": [image(binary_data_size=9)]}, (b"12345678",), "claims 9 bytes, 8 are left"),
        ({"inputs": [image(binary_data_size=7)]}, (b"12345678",), "1 bytes belong to no input"),
        ({"inputs": [image(binary_data_size=-1)]}, (b"",), "binary_data_size"),
        ({"inputs": [image(binary_data_size="8")]}, (b"12345678",), "binary_data_size"),
        ({"inputs": [image(binary_data_size=True)]}, (b"1",), "binary_data_size"),
        ({"inputs": [{**image(binary_data_size=1), "data": ["x"]}]}, (b"1",), "either data in the JSON or"),
        ({"inputs": [image()]}, (b"12345678",), "either data in the JSON or"),
        ({"inputs": [image(shared_memory_region="r")]}, (b"",), "shared memory"),
        ({"inputs": [{**image(), "shape": [-1], "data": []}]}, (), "shape"),
        ({"inputs": [{**image(), "shape": [1.5], "data": []}]}, (), "shape"),
        ({"inputs": [{**image(), "name": 7, "data": []}]}, (), "name: "),
        ({"inputs": [7]}, (), "inputs.0"),
        ({"inputs": [{**image(), "shape": [10**100], "data": []}]}, (), "shape"),
        ({"inputs": {}}, (), "inputs: "),
        ({}, (), "inputs: "),
        ([], (), "body: "),
        (
            {"inputs": [], "outputs": [{"name": "x", "parameters": {"classification": "3"}}]},
            (),
            "classification: ",
        ),
        ({"inputs": [], "outputs": [{"name": "x", "parameters": {"binary_data": 1}}]}, (), "binary_data: "),
        ({"inputs": [], "parameters": {"a": []}}, (), "parameters.a"),
        ({"inputs": [], "parameters": []}, (), "parameters: "),
        ({"inputs": [], "id": 5}, (), "id"),
    ],
)
def test_contradictions_are_refused(document: Any, parts: tuple[bytes, ...], words: str) -> None:
    with pytest.raises(ParameterInvalid, match=words):
        parse(*body(document, *parts))


def test_text_beyond_the_megabytes_of_numbers_is_images_in_base64() -> None:
    """As many lists and numbers as a short text may have are too many for a long one."""
    numbers, padding = [[1] * 10] * 2000, "A" * TEXT_BYTES
    entries = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [padding]} for name in ("a", "b")]
    request, _ = parse(*body({"inputs": entries}), most_text(20 * 1024 * 1024))
    assert [tensor.data for tensor in request.inputs] == [[padding]] * 2
    more = {**entries[0], "data": numbers}
    parse(*body({"inputs": [more]}), most_text(1))
    with pytest.raises(ImageTooLarge, match="binary form"):
        parse(*body({"inputs": [entries[0], more]}), most_text(20 * 1024 * 1024))
    with pytest.raises(ImageTooLarge, match="binary form"):
        parse(*body({"inputs": entries}), most_text(1))


@pytest.mark.parametrize("header", ["-1", "abc", "1e3", "100000", "", "٣"])
def test_a_header_that_is_no_length_of_the_json(header: str) -> None:
    with pytest.raises(ParameterInvalid, match="Inference-Header-Content-Length"):
        header_length(header, 14)


def test_binary_sizes_without_the_header() -> None:
    text, _ = body({"inputs": [image(binary_data_size=4)]})
    with pytest.raises(ParameterInvalid, match="claims 4 bytes, 0 are left"):
        parse(text, None)


def test_a_picture_without_the_header_is_told_of_it() -> None:
    with pytest.raises(ParameterInvalid, match="Inference-Header-Content-Length: 0"):
        parse(b"\xff\xd8\xff", None)


def test_an_answer_in_json_and_in_binary() -> None:
    scores = Tensor("scores", "FP32", (1, 2), np.array([[0.25, 0.5]], np.float32))
    labels = Tensor("labels", "BYTES", (1, 1), [b"0.5:1:cat"])
    response = InferResponse("m", "1", "mine", [scores, labels])
    text, length = render(response, {None: False})
    assert length is None
    assert json.loads(text) == {
        "model_name": "m",
        "model_version": "1",
        "id": "mine",
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.5]},
            {"name": "labels", "datatype": "BYTES", "shape": [1, 1], "data": ["0.5:1:cat"]},
        ],
    }
    content, length = render(response, {None: True, "scores": False})
    assert length is not None
    head = json.loads(content[:length])
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 13}
    assert content[length:] == b"\x09\0\0\0" + b"0.5:1:cat"


def decompressed(body: bytes, encoding: str, most: int) -> bytes:
    inflater = Inflater(body, encoding, most, "Content-Encoding")
    whole = b"".join(iter(inflater.piece, b""))
    assert inflater.ended
    return whole


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_both_ways_and_its_limit(encoding: str) -> None:
    data = bytes(range(256)) * 64
    packed, named = compressed(data, f"br, {encoding};q=0.5, identity;q=0.1")
    assert named == encoding
    assert decompressed(packed, encoding, len(data)) == data
    with pytest.raises(ImageTooLarge, match="decompressed"):
        decompressed(packed, encoding, len(data) - 1)
    for broken in (packed[:-6], packed + b"more", b"", b"\x1f\x8b nothing", data):
        with pytest.raises(ParameterInvalid):
            decompressed(broken, encoding, len(data))


def test_what_is_not_compressed() -> None:
    data = bytes(4096)
    for accepted in ("", "br", "identity", "gzip;q=0", "gzip;q=x"):
        assert compressed(data, accepted) == (data, None)
    assert compressed(b"small", "gzip") == (b"small", None)
    assert compressed(data, "deflate;q=0.5, gzip")[1] == "gzip"
    with pytest.raises(MediaTypeUnsupported, match="'br'"):
        decompressed(data, "br", 1 << 20)


def test_bare_deflate_is_taken_too() -> None:
    import zlib

    packer = zlib.compressobj(wbits=-15)
    data = b"pixels" * 100
    assert decompressed(packer.compress(data) + packer.flush(), "deflate", 1000) == data


def test_parameters_without_use_are_ignored_and_too_many_refused() -> None:
    given = {"a": 1, "sequence_id": 4, "triton_x": True}
    assert take_parameters(given) == {"a": 1}
    for wrong in (dict.fromkeys(map(str, range(65)), 1), {"a": "x" * 20_000}):
        with pytest.raises(ParameterInvalid):
            take_parameters(wrong)
