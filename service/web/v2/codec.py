"""The Open Inference Protocol's bodies: JSON, or JSON and then tensors (the binary tensor data extension)."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from models.errors import ImageTooLarge, ParameterInvalid, echoed
from models.parameters import checked
from service.oip.adapter import IMAGE
from service.oip.request import InferRequest, InferResponse, OutputParameters, Value
from service.oip.tensors import BYTES, DEPTH, InputTensor
from service.web.json_text import Structure, parse_json

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

Size = Annotated[int, Field(ge=0, lt=2**63)]


class Body(BaseModel):
    """A part of a request; what the protocol does not name is ignored, and null is as if left out."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if value is not None}
        return given


class InputParameters(Body):
    """`binary_data_size`: how many of the bytes behind the JSON are this input's."""

    model_config = ConfigDict(extra="allow")
    binary_data_size: Size | None = None


class InputBody(Body):
    """An input; `parameters.binary_data_size` in place of `data` where its bytes follow the JSON."""

    name: str = Field(examples=["image"])
    shape: list[Size] = Field(max_length=DEPTH)
    datatype: str = Field(examples=["BYTES"])
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(None, description="values, nested or flat; elements of BYTES in base64")


class RequestedOutputBody(Body):
    """An output that is asked for."""

    name: str = Field(examples=["scores"])
    parameters: OutputParameters = OutputParameters()


class InferBody(Body):
    """A request for an inference."""

    id: str = ""
    parameters: dict[str, Value] = {}
    inputs: list[InputBody] = Field(max_length=8)
    outputs: list[RequestedOutputBody] = Field([], max_length=64)


class ReadyAnswer(Body):
    """The model answers."""

    name: str
    ready: bool


class OutputAnswer(Body):
    """An output; `parameters.binary_data_size` in place of `data` where its bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] = []


class InferAnswer(Body):
    """The outputs."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[OutputAnswer]


Binary: TypeAlias = dict[str | None, bool]
"""Whether an output is wanted in binary, by its name; None stands for those that are not named."""


def most_text(max_image: int) -> int:
    """Most bytes of JSON text of a request: one image of `max_image` bytes in base64 is accepted."""
    return max(TEXT_BYTES, max_image * 4 // 3 + 4096)


def parse(body: bytes, length: int | None, most: int) -> tuple[InferRequest, Binary]:
    """A request's body.

    Args:
        body: decompressed.
        length: of the JSON, as `header_length` reads it; None: all of it is.
        most: bytes of the JSON.

    Raises:
        ParameterInvalid: it is not what the protocol says, or its sizes contradict each other.
        ImageTooLarge: the JSON is longer, or has more structure, than any that is not better sent in binary.
    """
    if length == 0:
        return InferRequest([InputTensor(IMAGE, BYTES, (1,), [body])]), {None: False}
    if (len(body) if length is None else length) > most:
        raise ImageTooLarge(f"the JSON has more than {most} bytes{ADVICE}")
    document = _json(body if length is None else body[:length])
    binary = memoryview(body)[len(body) if length is None else length :]
    inputs, position = [], 0
    for entry in document.inputs:
        size, data = entry.parameters.binary_data_size, entry.data
        if any(key.startswith("shared_memory") for key in entry.parameters.model_extra or ()):
            raise ParameterInvalid("shared_memory", "tensors in shared memory are not accepted")
        if (size is None) == (data is None):
            what = f"the input {echoed(entry.name)} has either data in the JSON or a binary_data_size"
            raise ParameterInvalid("data", what)
        if size is not None and position + size > len(binary):
            left = len(binary) - position
            claim = f"the input {echoed(entry.name)} claims {size} bytes, {left} are left"
            raise ParameterInvalid("binary_data_size", claim)
        held = binary[position : position + (size or 0)] if data is None else data
        position += size or 0
        inputs.append(InputTensor(entry.name, entry.datatype, tuple(entry.shape), held))
    if position != len(binary):
        raise ParameterInvalid("binary_data_size", f"{len(binary) - position} bytes belong to no input")
    wanted: Binary = {None: document.parameters.pop("binary_data_output", False) is True}
    for output in document.outputs:
        if output.parameters.binary_data is not None:
            wanted[output.name] = output.parameters.binary_data
    outputs = [(one.name, one.parameters.classification) for one in document.outputs]
    return InferRequest(inputs, outputs, document.parameters, document.id), wanted


def render(response: InferResponse, wanted: Binary) -> tuple[bytes, int | None]:
    """An answer's body, and the length of its JSON where bytes follow it."""
    outputs, parts = [], []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if wanted.get(tensor.name, wanted[None]):
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


def header_length(header: str | None, most: int) -> int | None:
    """`Inference-Header-Content-Length`, in a body of `most` bytes.

    Raises:
        ParameterInvalid: it is none.
    """
    if header is None:
        return None
    if not header.isascii() or not header.isdigit() or len(header) > 20 or int(header) > most:
        raise ParameterInvalid(HEADER, f"{HEADER} is {echoed(header)}, but the body has {most} bytes")
    return int(header)


def _json(text: bytes) -> InferBody:
    try:
        document = parse_json(text, STRUCTURE if len(text) <= TEXT_BYTES else LONG_STRUCTURE)
    except ValueError as exc:
        hint = f"; with {HEADER}: 0 the whole body is an image" if text[:1] != b"{" else ""
        raise ParameterInvalid("body", f"the body is not JSON: {exc}{hint}") from None
    return checked(InferBody, document)
