"""Messages of `vision.proto` from and to the tasks' own models, by the names of their fields.

A request's fields are the images, the parameters and the body of its task; fields that are not set are left
out. A reply's fields are those of the answer. Where the answer has a list of numbers and the message has a
message (a box, a point), the numbers fill its fields in order. Names of enums are the values of the
parameters in capitals, behind the enum's own name: `FACE_SELECT_ONLY` is ``only``; the first, of number 0,
stands for one that is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
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
    names, messages, row = _fields(kind)
    if isinstance(source, list | tuple):
        return {row: source} if row else dict(zip(names, source, strict=True))
    if not isinstance(source, dict):
        source = {name: getattr(source, name, None) for name in names}
    found = {name: value for name, value in source.items() if value is not None and name in names}
    for name, (inner, repeated) in messages.items():
        if name in found:
            value = found[name]
            found[name] = [_values(inner, one) for one in value] if repeated else _values(inner, value)
    for name in found.keys() & _enums(kind).keys():
        found[name] = _enums(kind)[name][str(found[name])]
    return found


@cache
def _enums(kind: Descriptor) -> dict[str, dict[str, int]]:
    """Of the fields of a message that are enums, the numbers of their values as parameters have these."""
    return {
        field.name: {_value(field.enum_type, number): number for number in field.enum_type.values_by_number}
        for field in kind.fields
        if field.enum_type is not None
    }


@cache
def _fields(kind: Descriptor) -> tuple[list[str], dict[str, tuple[Descriptor, bool]], str]:
    """Names of a message's fields; types of those that are messages, and whether there are several; the name
    of the only field, where that is a row of numbers."""
    names = [field.name for field in kind.fields]
    messages = {one.name: (one.message_type, one.is_repeated) for one in kind.fields if one.message_type}
    return names, messages, names[0] if len(names) == 1 and kind.fields[0].is_repeated else ""
