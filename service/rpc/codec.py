"""Messages of `vision.proto` from and to the tasks' own models, by the names of their fields.

A request's fields are the images, the parameters and the body of its task; fields that are not set are left
out. A reply's fields are those of the answer. Where the answer has a list of numbers and the message has a
message (a box, a point), the numbers fill its fields in order. Names of enums are the values of the
parameters in capitals, behind the enum's own name: `FACE_SELECT_ONLY` is ``only``; the first, of number 0,
stands for one that is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from pydantic_core import to_jsonable_python

from models.errors import ParameterInvalid, echoed
from service.rpc.context import Call


def handlers(
    service: ServiceDescriptor,
    methods: Mapping[str, Callable[[Any, Call], Any]],
    documents: Mapping[str, Callable[[Any], Any]],
) -> grpc.GenericRpcHandler:
    """What a gRPC server is given.

    Args:
        service: that the methods are of.
        methods: by name: request, call -> reply, or a stream of replies to a stream of requests.
        documents: by name: request -> the reply's fields: plain data, or a pydantic model.
    """

    def document_handler(fields: Callable[[Any], Any], reply: type[Message]) -> Callable[[Any, Call], Any]:
        async def answer(request: Any, call: Call) -> Message:
            return ParseDict(to_jsonable_python(fields(request)), reply(), ignore_unknown_fields=True)

        return answer

    found = {}
    for name, method in service.methods_by_name.items():
        reply = GetMessageClass(method.output_type)
        answer = methods[name] if name in methods else document_handler(documents[name], reply)
        streamed = method.client_streaming
        make = grpc.stream_stream_rpc_method_handler if streamed else grpc.unary_unary_rpc_method_handler
        found[name] = make(answer, GetMessageClass(method.input_type).FromString, reply.SerializeToString)
    return grpc.method_handlers_generic_handler(service.full_name, found)


def given(message: Message) -> dict[str, Any]:
    """The fields that a request sets, by name: numbers, texts, bytes, lists of these, and dicts of messages.

    Raises:
        ParameterInvalid: an enum's number that has no name.
    """
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None:
            found[field.name] = [given(one) for one in value] if field.is_repeated else given(value)
        elif field.enum_type is not None:
            found[field.name] = _choice(field, value)
        else:
            found[field.name] = list(value) if field.is_repeated else value
    return found


def _choice(field: FieldDescriptor, number: int) -> str:
    kind = field.enum_type
    assert kind is not None  # noqa: S101 (it is an enum's)
    named = kind.values_by_number.get(number)
    if named is None:
        raise ParameterInvalid(field.name, f"{field.name} {echoed(number)} is none of the enum's")
    return _value(kind, number)


def _value(kind: EnumDescriptor, number: int) -> str:
    """A value of an enum as parameters have it."""
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(kind.values_by_number[number].name.removeprefix(prefix).lower())


def message_of(kind: Descriptor, source: Any) -> Any:
    """A message from an object's attributes, or a mapping's items, of its fields' names."""
    return GetMessageClass(kind)(**_values(kind, source))


def _values(kind: Descriptor, source: Any) -> dict[str, Any]:
    """What the constructor of a message is given."""
    fields, row = _fields(kind)
    if isinstance(source, list | tuple):
        return {row: source} if row else dict(zip(fields, source, strict=True))
    is_dict = isinstance(source, dict)
    found = {}
    for name, convert in fields.items():
        value = source.get(name) if is_dict else getattr(source, name, None)
        if value is not None:
            found[name] = value if convert is None else convert(value)
    return found


@cache
def _fields(kind: Descriptor) -> tuple[dict[str, Callable[[Any], Any] | None], str]:
    """What makes the constructor's value of each field's, None where that is the same; the name of the only
    field, where that is a row of numbers."""
    fields = {field.name: _convert(field) for field in kind.fields}
    return fields, next(iter(fields)) if len(fields) == 1 and kind.fields[0].is_repeated else ""


def _convert(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    inner = field.message_type
    if field.enum_type is not None:  # the numbers of their values as parameters have these
        names = field.enum_type.values_by_number
        numbers = {_value(field.enum_type, number): number for number in names}
        return lambda value: numbers[str(value)]
    if inner is None:
        return None
    if field.is_repeated:
        return lambda values: [_values(inner, one) for one in values]
    return partial(_values, inner)
