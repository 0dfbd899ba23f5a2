"""Requests over gRPC, and how they are sent: with the messages that the server's reflection describes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.golden.answers import Json, plain, tensor
from tests.golden.images import image, present

VISION, INFERENCE = "lynceus.v1.Vision", "inference.GRPCInferenceService"
PRESENT = ("x-request-id", "x-batch-size", "server-timing")
DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Img:
    """An image's bytes in a message."""

    name: str


@dataclass(frozen=True, slots=True)
class Rpc:
    """A call: one message, or the messages of a stream.

    Attributes:
        name: stable; the stored answer's key.
        service, method: that it calls.
        messages: fields by name, with `Img` and bytes for fields of bytes; or a message as its bytes.
        metadata: besides the request's id.
        timeout: of the call, seconds.
    """

    name: str
    service: str
    method: str
    messages: Sequence[Mapping[str, Any] | bytes]
    metadata: Sequence[tuple[str, str]] = ()
    timeout: float = 60


class Client:
    """A channel, and what the server says of its services.

    Args:
        address: ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self._database = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = DescriptorPool(self._database)

    def close(self) -> None:
        self._channel.close()

    def services(self) -> list[str]:
        """Full names, as reflection lists them."""
        return sorted(self._database.get_services())

    @cache  # noqa: B019 (one client lives as long as the process that records)
    def method(self, service: str, method: str) -> MethodDescriptor | None:
        found = self._pool.FindServiceByName(service)
        return found.methods_by_name.get(method)

    def described(self, service: str) -> Json:
        """A service's methods, with the fields of every message and the values of every enum below them."""
        types: dict[str, Json] = {}
        methods = {}
        for method in self._pool.FindServiceByName(service).methods:
            ends = (method.input_type.full_name, method.output_type.full_name)
            methods[method.name] = [*ends, bool(method.client_streaming), bool(method.server_streaming)]
            for message in (method.input_type, method.output_type):
                _collect(message, types)
        return {"methods": methods, "types": types}

    def send(self, case: Rpc) -> Json:
        """The answer as it is stored: the status, what its details say, the replies."""
        method = self.method(case.service, case.method)
        streaming = method is not None and (method.client_streaming or method.server_streaming)
        name = f"/{case.service}/{case.method}"
        metadata = [("x-request-id", "golden"), *case.metadata]
        sent = [
            message if isinstance(message, bytes) else self._bytes(method, message)
            for message in case.messages
        ]
        replies: list[bytes] = []
        call: Any
        try:
            if streaming:
                call = self._channel.stream_stream(name)(iter(sent), timeout=case.timeout, metadata=metadata)
                replies.extend(call)
            else:
                reply, call = self._channel.unary_unary(name).with_call(
                    sent[0], timeout=case.timeout, metadata=metadata
                )
                replies.append(reply)
        except grpc.RpcError as error:
            return {**_refusal(error), "replies": [self._reply(method, reply) for reply in replies]}
        trailers = dict(call.trailing_metadata() or ())
        return {
            "status": "OK",
            "present": {key: True for key in PRESENT if key in trailers},
            "replies": [self._reply(method, reply) for reply in replies],
        }

    def _bytes(self, method: MethodDescriptor | None, fields: Mapping[str, Any]) -> bytes:
        if method is None:
            return b""
        message = GetMessageClass(method.input_type)()
        json_format.ParseDict(_jsonable(fields), message, descriptor_pool=self._pool)
        return message.SerializeToString()

    def _reply(self, method: MethodDescriptor | None, data: bytes) -> Json:
        assert method is not None
        message: Message = GetMessageClass(method.output_type)()
        message.ParseFromString(data)
        found = json_format.MessageToDict(
            message,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            descriptor_pool=self._pool,
        )
        for holder in (found, found.get("infer_response", {})):
            contents = holder.pop("raw_output_contents", None)
            if contents:
                pairs = zip(holder["outputs"], contents, strict=True)
                holder["outputs"] = [
                    tensor(
                        entry["name"],
                        entry["datatype"],
                        [int(size) for size in entry["shape"]],
                        base64.b64decode(raw),
                    )
                    for entry, raw in pairs
                ]
        return found if "outputs" in found or "infer_response" in found else plain(found)


def possible(case: Rpc) -> bool:
    """Whether every image that it needs is there."""
    return all(present(name) for message in case.messages for name in _images(message))


def _images(value: Any) -> list[str]:
    if isinstance(value, Img):
        return [value.name]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [name for item in value for name in _images(item)] if isinstance(value, list | tuple) else []


def _jsonable(value: Any) -> Any:
    if isinstance(value, Img):
        value = image(value.name)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _refusal(error: Any) -> dict[str, Json]:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # by whose clock is a matter of chance
        return {"status": "DEADLINE_EXCEEDED"}
    trailers = dict(error.trailing_metadata() or ())
    found: dict[str, Json] = {
        "status": error.code().name,
        "detail": error.details(),
        "present": {key: True for key in PRESENT if key in trailers},
    }
    if DETAILS in trailers:
        status = status_pb2.Status.FromString(trailers[DETAILS])
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                found |= {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
    return found


def _collect(message: Descriptor, types: dict[str, Json]) -> None:
    if message.full_name in types:
        return
    types[message.full_name] = fields = {}
    for field in message.fields:
        kind = _kind(field)
        fields[field.name] = [field.number, kind, field.is_repeated]
        if field.message_type is not None:
            _collect(field.message_type, types)
        if field.enum_type is not None:
            types[field.enum_type.full_name] = {value.name: value.number for value in field.enum_type.values}


def _kind(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.full_name)
    return str(field.enum_type.full_name) if field.enum_type is not None else str(field.type)
