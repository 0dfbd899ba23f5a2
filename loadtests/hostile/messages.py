"""Messages of gRPC as bytes of protobuf's wire format: many empty fields, deep groups, wrong lengths."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

from loadtests.message import field, varint

Maker = Callable[[int], bytes]
"""Gives a message of about so many bytes."""


def repeated(
    number: int, content: bytes, size: int, *, before: bytes = b"", inside: int | None = None
) -> bytes:
    """The same field until the message has `size` bytes; within a field `inside` where one is named."""
    one = field(number, content)
    many = one * max(1, (size - len(before)) // len(one))
    return before + (many if inside is None else field(inside, many))


def groups(size: int, number: int = 100) -> bytes:
    """Unknown groups in one another."""
    start, end = varint(number << 3 | 3), varint(number << 3 | 4)
    return start * (size // (2 * len(start))) + end * (size // (2 * len(end)))


def open_groups(size: int) -> bytes:
    """Groups that are not closed."""
    start = varint(100 << 3 | 3)
    return start * (size // len(start))


def varints(size: int, number: int = 100) -> bytes:
    """Unknown numbers."""
    one = varint(number << 3) + b"\x01"
    return one * (size // len(one))


MODEL = field(1, b"efficientnet-lite0")
TENSOR = field(1, b"image") + field(2, b"BYTES") + field(3, b"\x01")
"""An input tensor `image`, BYTES, [1]."""

INFER: dict[str, Maker] = {
    "inputs": partial(repeated, 5, b"", before=MODEL),
    "inputs of no model": partial(repeated, 5, b""),
    "inputs that are whole": partial(repeated, 5, TENSOR, before=MODEL),
    "outputs": partial(repeated, 6, b"", before=MODEL),
    "outputs of names": partial(repeated, 6, field(1, b"scores"), before=MODEL + field(5, TENSOR)),
    "parameters": partial(repeated, 4, field(1, b"a") + field(2, b"\x08\x01"), before=MODEL),
    "empty parameters": partial(repeated, 4, b"", before=MODEL),
    "raw contents": partial(repeated, 7, b"", before=MODEL),
    "raw contents of an input": partial(repeated, 7, b"", before=MODEL + field(5, TENSOR)),
    "a raw content": lambda size: MODEL + field(5, TENSOR) + field(7, bytes(size)),
    "a long model": lambda size: field(1, b"m" * size),
    "a long id": lambda size: MODEL + field(3, b"m" * size),
    "a long input": lambda size: MODEL + field(5, field(1, b"m" * size)),
    "a model again and again": partial(repeated, 1, b"lenet5"),
    "sizes": lambda size: (
        MODEL + field(5, field(1, b"image") + field(2, b"BYTES") + field(3, b"\x01" * size))
    ),
    "contents": lambda size: MODEL + field(5, TENSOR + repeated(8, b"", size, inside=5)),
    "numbers": lambda size: MODEL + field(5, TENSOR + field(5, field(4, b"\x01" * size))),
    "parameters of an input": lambda size: MODEL + field(5, repeated(4, field(1, b"a"), size, before=TENSOR)),
    "unknown groups": groups,
    "unknown groups, open": open_groups,
    "unknown numbers": varints,
    "unknown fields": partial(repeated, 100, b""),
    "an unknown field": lambda size: field(100, bytes(size)),
    "a length beyond the end": lambda size: MODEL + varint(5 << 3 | 2) + varint(2**31 - 1) + bytes(size),
}
"""Messages of `inference.GRPCInferenceService/ModelInfer`, by what they are full of."""

VISION: dict[str, tuple[str, Maker]] = {
    "Classify of unknown fields": ("Classify", partial(repeated, 100, b"")),
    "Classify of groups": ("Classify", groups),
    "Classify of zeros": ("Classify", lambda size: field(1, bytes(size))),
    "Classify of images": ("Classify", partial(repeated, 1, b"")),
    "Classify of a long model": ("Classify", lambda size: field(1, b"x") + field(2, b"m" * size)),
    "Detect of classes": ("Detect", partial(repeated, 6, b"")),
    "Detect of long classes": ("Detect", lambda size: repeated(6, b"c" * 1000, size)),
    "DetectFaces of zeros": ("DetectFaces", lambda size: field(1, bytes(size))),
    "EmbedFaces of unknown fields": ("EmbedFaces", partial(repeated, 100, b"")),
    "VerifyFaces of zeros": (
        "VerifyFaces",
        lambda size: field(1, bytes(size // 2)) + field(2, bytes(size // 2)),
    ),
    "VerifyFaces of images": ("VerifyFaces", partial(repeated, 2, b"")),
    "CompareFaces of numbers": (
        "CompareFaces",
        lambda size: field(1, field(1, struct.pack("<f", 1) * (size // 4))),
    ),
    "CompareFaces of embeddings": ("CompareFaces", partial(repeated, 1, b"")),
    "Stylize of a long style": ("Stylize", lambda size: field(1, b"x") + field(3, b"m" * size)),
    "ListModels of unknown fields": ("ListModels", partial(repeated, 100, b"")),
    "ListStyles of groups": ("ListStyles", groups),
    "GetModel of a long name": ("GetModel", lambda size: field(1, b"m" * size)),
    "GetModel of names": ("GetModel", partial(repeated, 1, b"")),
}
"""Messages of `lynceus.v1.Vision`: a method and its message, by what they are full of."""

OTHERS: dict[str, tuple[str, Maker]] = {
    "ServerLive": ("inference.GRPCInferenceService/ServerLive", partial(repeated, 100, b"")),
    "ModelReady": ("inference.GRPCInferenceService/ModelReady", lambda size: field(1, b"m" * size)),
    "ModelMetadata": ("inference.GRPCInferenceService/ModelMetadata", partial(repeated, 1, b"")),
    "ModelConfig": ("inference.GRPCInferenceService/ModelConfig", groups),
    "ModelStatistics": ("inference.GRPCInferenceService/ModelStatistics", partial(repeated, 100, b"")),
    "RepositoryIndex": ("inference.GRPCInferenceService/RepositoryIndex", lambda size: field(1, b"m" * size)),
    "Health": ("grpc.health.v1.Health/Check", lambda size: field(1, b"m" * size)),
    "Health of unknown fields": ("grpc.health.v1.Health/Check", partial(repeated, 100, b"")),
}
"""Messages of the other unary methods: service and method, and the message."""

MALFORMED = (
    b"\xff",
    b"\x0a\xff",
    b"\x0a\x05ab",
    b"\x08",
    b"\x07",
    b"\x0c",
    b"\x0a\x02\xff\xfe",
    b"\xff" * 11,
)
"""Messages that are none."""


def classify(image: bytes) -> bytes:
    """A valid `ClassifyRequest` (and `DetectRequest`)."""
    return field(1, image)


def infer(image: bytes, model: str = "efficientnet-lite0") -> bytes:
    """A valid `ModelInferRequest` of an image."""
    packed = struct.pack("<I", len(image)) + image
    return field(1, model.encode()) + field(5, TENSOR) + field(7, packed)
