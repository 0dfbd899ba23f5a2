"""The Open Inference Protocol's bodies: JSON, or JSON and then tensors (the binary tensor data extension)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from models.errors import ECHO, ImageTooLarge, ParameterInvalid, echoed
from service.errors import Problem
from service.oip.adapter import IMAGE
from service.oip.request import InferRequest, InferResponse, RequestedOutput, Value
from service.oip.tensors import BYTES, DEPTH, InputTensor
from service.web.json_text import Structure, parse_json
from service.web.responses import problem_response

HEADER = "Inference-Header-Content-Length"
"""Length of the JSON, where bytes follow it; 0: there is no JSON, the body is one image."""

ADVICE = f"; send tensors in their binary form, with the header {HEADER}"

STRUCTURE = Structure(values=2**20, lists=300_000, objects=512, names=4096, advice=ADVICE)
"""A million numbers: the largest input of a model here (512 x 512 x 3) as numbers, nested or not.

Parsing so many holds the interpreter's lock for less than 0.1 s.
"""

TEXT_BYTES = 8 * 1024 * 1024
"""Bytes of JSON text with numbers: a million of them, with commas and spaces."""

LONG_STRUCTURE = Structure(values=4096, lists=1024, objects=512, names=4096, advice=ADVICE)
"""Of what is longer, as only images in base64 make it."""

INPUTS, OUTPUTS = 8, 64
"""Most inputs and most outputs of a request."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which outputs the client wants in binary.

    Attributes:
        usual: those that it says nothing of.
        named: the others.
    """

    usual: bool = False
    named: Mapping[str, bool] = field(default_factory=dict)


def most_text(max_image: int) -> int:
    """Most bytes of JSON text of a request: one image of `max_image` bytes in base64 is accepted."""
    return max(TEXT_BYTES, max_image * 4 // 3 + 4096)


def parse(
    body: bytes, header: str | None, model: str, version: str, most: int | None = None
) -> tuple[InferRequest, Layout]:
    """A request's body.

    Args:
        body: decompressed.
        header: `Inference-Header-Content-Length`.
        model, version: of the path.
        most: bytes of the JSON; None: any number.

    Raises:
        ParameterInvalid: it is not what the protocol says, or its sizes contradict each other.
        ImageTooLarge: the JSON is longer, or has more structure, than any that is not better sent in binary.
    """
    length = _header_length(header, len(body))
    if length == 0:
        return InferRequest(model, version, [InputTensor(IMAGE, BYTES, (1,), [body])]), Layout()
    if most is not None and (len(body) if length is None else length) > most:
        raise ImageTooLarge(f"the JSON has more than {most} bytes{ADVICE}")
    document = _json(body if length is None else body[:length])
    binary = None if length is None else memoryview(body)[length:]
    inputs, position = [], 0
    for entry in _objects(document, "inputs", INPUTS):
        name = _text(entry, "name")
        size = _object(entry, "parameters").get("binary_data_size")
        for key in _object(entry, "parameters"):
            if key.startswith("shared_memory"):
                raise ParameterInvalid(key, "tensors in shared memory are not accepted")
        data: memoryview | list[Any]
        if size is None:
            data = _list(entry, "data")
        else:
            if not _is_size(size):
                raise _wrong("binary_data_size", "must be a number of bytes")
            if "data" in entry:
                raise _wrong("binary_data_size", f"the input {echoed(name)} has data in the JSON as well")
            if binary is None or position + size > len(binary):
                left = 0 if binary is None else len(binary) - position
                claim = f"the input {echoed(name)} claims {size} bytes, {left} are left"
                raise _wrong("binary_data_size", claim)
            data = binary[position : position + size]
            position += size
        inputs.append(InputTensor(name, _text(entry, "datatype"), _shape(entry), data))
    if binary is not None and position != len(binary):
        raise _wrong("binary_data_size", f"{len(binary) - position} bytes belong to no input")
    parameters = _parameters(_object(document, "parameters"))
    usual = parameters.pop("binary_data_output", False)
    outputs, named = _outputs(document)
    identity = document.get("id", "")
    if not isinstance(identity, str):
        raise _wrong("id", "must be text")
    request = InferRequest(model, version, inputs, outputs, parameters, identity)
    return request, Layout(usual is True, named)


def render(response: InferResponse, layout: Layout) -> tuple[bytes, int | None]:
    """An answer's body, and the length of its JSON where bytes follow it."""
    outputs, parts = [], []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if layout.named.get(tensor.name, layout.usual):
            raw = tensor.raw()
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = tensor.flat()
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        document["id"] = response.id
    text = to_json({**document, "outputs": outputs})
    return (b"".join((text, *parts)), len(text)) if parts else (text, None)


def error_response(problem: Problem) -> Response:
    """Any error on these routes: `{"error": "..."}`, with the table's status and headers."""
    response = problem_response(problem)
    response.body = to_json({"error": problem.detail})
    response.headers["Content-Length"] = str(len(response.body))
    response.headers["Content-Type"] = "application/json"
    return response


def _header_length(header: str | None, most: int) -> int | None:
    if header is None:
        return None
    if not header.isascii() or not header.isdigit() or len(header) > 20 or int(header) > most:
        raise ParameterInvalid(HEADER, f"{HEADER} is {echoed(header)}, but the body has {most} bytes")
    return int(header)


def _json(text: bytes) -> dict[str, Any]:
    try:
        document = parse_json(text, STRUCTURE if len(text) <= TEXT_BYTES else LONG_STRUCTURE)
    except ValueError as exc:
        hint = f"; with {HEADER}: 0 the whole body is an image" if text[:1] != b"{" else ""
        raise ParameterInvalid("body", f"the body is not JSON: {exc}{hint}") from None
    if not isinstance(document, dict):
        raise ParameterInvalid("body", "the body must be a JSON object")
    return document


def _outputs(document: dict[str, Any]) -> tuple[list[RequestedOutput], dict[str, bool]]:
    if "outputs" not in document:
        return [], {}
    wanted, named = [], {}
    for entry in _objects(document, "outputs", OUTPUTS):
        name, parameters = _text(entry, "name"), _object(entry, "parameters")
        classes, binary = parameters.get("classification"), parameters.get("binary_data")
        if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool)):
            raise _wrong("classification", "must be a whole number")
        if binary is not None:
            if not isinstance(binary, bool):
                raise _wrong("binary_data", "must be true or false")
            named[name] = binary
        wanted.append(RequestedOutput(name, classes))
    return wanted, named


def _parameters(given: dict[str, Any]) -> dict[str, Value]:
    for name, value in given.items():
        if not isinstance(value, bool | int | float | str):
            raise _wrong(name, "must be a number, a text, true or false")
    return given


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    shape = _list(entry, "shape")
    if len(shape) > DEPTH:
        raise _wrong("shape", f"{len(shape)} sizes; at most {DEPTH}")
    if not all(_is_size(size) for size in shape):
        raise _wrong("shape", "must be whole numbers, none of them negative")
    return tuple(shape)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _objects(document: dict[str, Any], name: str, most: int) -> list[dict[str, Any]]:
    entries = _list(document, name)
    if len(entries) > most:
        raise _wrong(name, f"{len(entries)} of them; at most {most}")
    if not all(isinstance(entry, dict) for entry in entries):
        raise _wrong(name, "must be a list of objects")
    return entries


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name, {})
    if not isinstance(value, dict):
        raise _wrong(name, "must be an object")
    return value


def _list(document: dict[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise _wrong(name, "must be a list")
    return value


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise _wrong(name, "must be text")
    return value


def _wrong(name: str, what: str) -> ParameterInvalid:
    return ParameterInvalid(name, f"{name[:ECHO]}: {what}")
