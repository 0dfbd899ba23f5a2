"""Every method's request type, and messages of it: valid ones, and bytes that are wrong in many ways.

`python -m tests.service.rpc.messages 100000` sends so many to a server in this process and says what came.
"""

from __future__ import annotations

import collections
import gzip
import random
import sys
import zlib
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from service.oip.stubs import open_inference_pb2
from service.rpc.stubs import vision_pb2
from tests.service.transports import Transports, open_transports, pipeline, style_pipeline

SERVICES = (
    vision_pb2.DESCRIPTOR.services_by_name["Vision"],
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)
METHODS: tuple[MethodDescriptor, ...] = tuple(method for service in SERVICES for method in service.methods)
WELL = frozenset(grpc.StatusCode) - {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def path(method: MethodDescriptor) -> str:
    """A method's name on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, kind: int, payload: bytes | int = b"") -> bytes:
    """One field on the wire; the length of kind 2 is added."""
    tag = varint(number << 3 | kind)
    if isinstance(payload, int):
        return tag + varint(payload)
    return tag + (varint(len(payload)) if kind == 2 else b"") + payload


def filled(descriptor: Descriptor, rng: random.Random, depth: int = 0) -> Message:
    """A message with some of its fields set to something."""
    message: Any = message_factory.GetMessageClass(descriptor)()
    for one in descriptor.fields:
        if rng.random() < 0.3:
            continue
        several = rng.randrange(4) if one.is_repeated else 1
        if one.message_type is not None and one.message_type.GetOptions().map_entry:
            for key in range(several):
                entry = getattr(message, one.name)[f"{key}"]
                entry.CopyFrom(filled(one.message_type.fields_by_name["value"].message_type, rng, depth + 1))
        elif one.message_type is not None:
            for _ in range(several):
                inner = filled(one.message_type, rng, depth + 1)
                target = getattr(message, one.name)
                target.add().CopyFrom(inner) if one.is_repeated else target.CopyFrom(inner)
        else:
            values = [_value(one, rng) for _ in range(several)]
            if one.is_repeated:
                getattr(message, one.name).extend(values)
            else:
                setattr(message, one.name, values[0])
    return message  # type: ignore[no-any-return]


def _value(one: FieldDescriptor, rng: random.Random) -> Any:
    types = FieldDescriptor
    match one.cpp_type:
        case types.CPPTYPE_STRING if one.type == types.TYPE_BYTES:
            return rng.randbytes(rng.choice((0, 1, 20, 300)))
        case types.CPPTYPE_STRING:
            return rng.choice(("", "lenet5", "image", "UINT8", "BYTES", "é" * 50, "x" * 300))
        case types.CPPTYPE_FLOAT | types.CPPTYPE_DOUBLE:
            return rng.choice((0.0, 0.5, -1.0, 1e30, float("inf"), float("nan")))
        case types.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case types.CPPTYPE_INT32 | types.CPPTYPE_INT64:
            return rng.choice((0, 1, -1, 28, 2**31 - 1))
        case _:
            return rng.choice((0, 1, 3, 255, 2**31 - 1))


def hostile(method: MethodDescriptor, rng: random.Random) -> bytes:
    """Bytes for a method: a valid message, mutated, spliced, repeated, compressed or not."""
    raw = filled(method.input_type, rng).SerializeToString()
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(7):
            case 0:
                raw = raw[:at] + rng.randbytes(rng.randrange(1, 9)) + raw[at + rng.randrange(9) :]
            case 1:
                raw = raw[:at]
            case 2:
                other = filled(rng.choice(METHODS).input_type, rng).SerializeToString()
                raw = raw[:at] + other[rng.randrange(len(other) + 1) :]
            case 3:
                number, kind = rng.choice((rng.randrange(1, 20), 2**29 - 1)), rng.choice((0, 1, 2, 3, 4, 5))
                raw += field(number, kind, rng.randbytes(rng.randrange(20)))
            case 4:
                raw += field(rng.randrange(1, 9), 2) * rng.choice((10, 100, 5000))
            case 5:
                raw = (raw * rng.choice((2, 50)))[:200_000]
            case _:
                raw = rng.choice((gzip.compress, zlib.compress))(raw)
    return raw


def send(transports: Transports, method: MethodDescriptor, raw: bytes) -> grpc.StatusCode:
    """What a call with these bytes ends with."""
    kinds: dict[bool, Callable[..., Any]] = {
        False: transports.channel.unary_unary,
        True: transports.channel.unary_stream,
    }
    call = kinds[method.server_streaming](path(method))
    try:
        reply = call(raw, timeout=30)
        if method.server_streaming:
            for _ in reply:
                if method.name == "Watch":
                    reply.cancel()
    except grpc.RpcError as error:
        code = error.code()
        return grpc.StatusCode.OK if code is grpc.StatusCode.CANCELLED else code
    return grpc.StatusCode.OK


def main() -> None:
    """Fuzzes; a status that is not in `WELL` is an error."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    rng, found = random.Random(seed), collections.Counter[tuple[str, str]]()
    with open_transports([pipeline("lenet5"), style_pipeline()]) as transports:
        for _ in range(count):
            method = rng.choice(METHODS)
            raw = hostile(method, rng)
            code = send(transports, method, raw)
            found[method.name, code.name] += 1
            if code not in WELL:
                sys.exit(f"{path(method)}: {code} for {raw[:2000].hex()}")
        assert transports.memory.bodies == 0
    for (name, status), times in sorted(found.items()):
        print(f"{name:20} {status:20} {times}")


if __name__ == "__main__":
    main()
