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
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from pydantic_core import to_jsonable_python

from models.errors import ParameterInvalid, echoed
from service.rpc.context import Call

Fill: TypeAlias = Callable[[Any, Any], None]


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

    def told(tell: Callable[[Any], Any], reply: type[Message]) -> Callable[[Any, Call], Any]:
        async def answer(request: Any, call: Call) -> Message:
            return ParseDict(to_jsonable_python(tell(request)), reply(), ignore_unknown_fields=True)

        return answer

    found = {}
    for name, method in service.methods_by_name.items():
        reply = GetMessageClass(method.output_type)
        answer = methods[name] if name in methods else told(documents[name], reply)
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
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(named.name.removeprefix(prefix).lower())


def fill(message: Any, source: Any) -> Any:
    """Sets a message's fields from an object's attributes, or a mapping's items, of the same names."""
    _filler(message.DESCRIPTOR)(message, source)
    return message


@cache
def _filler(kind: Descriptor) -> Fill:
    """Compiled once for each message type: replies are made for every request."""
    parts = [(field.name, _setter(field)) for field in kind.fields]
    in_order = [(field.name, field.is_repeated) for field in kind.fields]

    def positional(message: Any, values: Any) -> None:
        if len(in_order) == 1 and in_order[0][1]:  # a row of numbers
            getattr(message, in_order[0][0]).extend(values)
            return
        for (name, _), value in zip(in_order, values, strict=True):
            setattr(message, name, value)

    def by_name(message: Any, source: Any) -> None:
        if isinstance(source, list | tuple):
            positional(message, source)
            return
        is_mapping = isinstance(source, Mapping)
        for name, put in parts:
            value = source.get(name) if is_mapping else getattr(source, name, None)
            if value is not None:
                put(message, value)

    return by_name


def _setter(field: FieldDescriptor) -> Fill:
    name = field.name
    if field.message_type is None:
        if field.is_repeated:
            return lambda message, value: getattr(message, name).extend(value)
        return lambda message, value: setattr(message, name, value)
    inner = field.message_type

    def one(message: Any, value: Any) -> None:
        part = getattr(message, name)
        part.SetInParent()
        _filler(inner)(part, value)

    def several(message: Any, value: Any) -> None:
        parts, put = getattr(message, name), _filler(inner)
        for item in value:
            put(parts.add(), item)

    return several if field.is_repeated else one
