"""Messages of gRPC: random trees of fields, wrong lengths, mutated valid ones, of every method."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random
from typing import Any

import grpc

from loadtests.fuzz.mutate import INTERESTING, mutated
from loadtests.fuzz.wire import LONGEST, Kind
from loadtests.hostile.images import small
from loadtests.hostile.messages import classify, groups, infer
from loadtests.hostile.png import uniform
from loadtests.message import field, varint

Request = tuple[str, bool, bool, list[bytes]]
"""Method, whether it streams, whether gzip is used, and the messages."""
MOST = 200_000
TINY = uniform(28, 28, color=0)
EMBEDDING = field(1, struct.pack("<128f", *[0.1] * 128)) + field(2, field(1, b"dlib-resnet"))
VISION, TENSORS, HEALTH = "lynceus.v1.Vision", "inference.GRPCInferenceService", "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
LENET = field(2, b"lenet5")
METHODS: list[tuple[str, bool, list[bytes]]] = [
    (f"{TENSORS}/ModelInfer", False, [infer(TINY, "lenet5"), infer(small(), "mtcnn")]),
    (f"{TENSORS}/ModelInfer", False, [infer(TINY, "dlib-resnet")]),
    (f"{TENSORS}/ModelStreamInfer", True, [infer(TINY, "lenet5")]),
    *((f"{TENSORS}/{name}", False, [b"", field(1, b"lenet5")]) for name in (
        "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig",
        "ModelStatistics", "RepositoryIndex",
    )),
    (f"{VISION}/Classify", False, [classify(TINY) + LENET, classify(TINY) + LENET + b"\x18\x03"]),
    (f"{VISION}/ClassifyStream", True, [classify(TINY) + LENET]),
    (f"{VISION}/DetectFaces", False, [classify(small()) + b"\x1d\x00\x00\x00\x3f\x28\x02"]),
    (f"{VISION}/EmbedFaces", False, [classify(small())]),
    (f"{VISION}/VerifyFaces", False, [field(1, small()) + field(2, TINY)]),
    (f"{VISION}/CompareFaces", False, [field(1, EMBEDDING) + field(2, EMBEDDING)]),
    (f"{VISION}/Detect", False, [classify(TINY) + field(6, b"person")]),
    (f"{VISION}/Stylize", False, [classify(TINY)]),
    (f"{VISION}/ListStyles", False, [b""]),
    (f"{VISION}/ListModels", False, [b""]),
    (f"{VISION}/GetModel", False, [field(1, b"lenet5")]),
    (f"{HEALTH}/Check", False, [b"", field(1, VISION.encode())]),
    (REFLECTION, True, [field(7, b""), field(3, b"a.proto"), field(4, VISION.encode())]),
]  # fmt: skip
TOKENS = [
    b"\x00", b"\xff", b"\x0a", b"\x12", b"\x1a", b"\x2a\x00", b"\x3a\x00", b"\x0b", b"\x0c", b"\x80" * 10,
    b"\x7f", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x2a\xff\x7f", b"image",
]  # fmt: skip
EVERY = [message for _, _, several in METHODS for message in several]
WRONG = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED")


def generate(random: Random) -> Request:
    """A call: valid messages that were mutated, or random ones."""
    method, stream, several = random.choice(METHODS)
    count = random.choice((1, 1, 2, 5)) if stream else 1
    return method, stream, random.random() < 0.2, [_message(random, several) for _ in range(count)]


def _message(random: Random, several: Sequence[bytes]) -> bytes:
    kind = random.random()
    if kind < 0.6:
        return mutated(random, random.choice(several), TOKENS, EVERY, MOST)
    if kind < 0.95:
        return b"".join(_field(random, 4) for _ in range(random.choice((0, 1, 3, 10, 200))))[:MOST]
    return random.choice(several)


def _field(random: Random, depth: int) -> bytes:
    number = random.choice((1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 100, 2**29 - 1))
    match random.randrange(7 if depth else 5):
        case 0:
            return varint(number << 3) + varint(random.choice(INTERESTING))
        case 1:
            return varint(number << 3 | 1) + random.randbytes(8)
        case 2:
            return varint(number << 3 | 5) + random.randbytes(4)
        case 3:
            return field(
                number, random.choice((b"", b"image", b"lenet5", b"BYTES", b"\xff\xfe", TINY, bytes(400)))
            )
        case 4:
            return varint(number << 3 | 2) + varint(random.choice(INTERESTING)) + random.randbytes(9)
        case 5:
            return groups(random.choice((2, 20, 300)), number)
    return field(number, b"".join(_field(random, depth - 1) for _ in range(random.randint(0, 4))))


class GrpcClient:
    """A channel of its own."""

    def __init__(self, address: str, grpc_address: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(grpc_address, options=options)

    def send(self, request: Request) -> str:
        method, stream, packed, messages = request
        compression = grpc.Compression.Gzip if packed else grpc.Compression.NoCompression
        call: Any
        try:
            if stream:
                call = self._channel.stream_stream(f"/{method}")
                for _ in call(iter(messages), timeout=LONGEST, compression=compression):
                    pass
            else:
                call = self._channel.unary_unary(f"/{method}")
                call(messages[0], timeout=LONGEST, compression=compression)
            return "OK"
        except grpc.RpcError as error:
            return str(error.code().name)

    def close(self) -> None:
        self._channel.close()


KIND = Kind("grpc", generate, GrpcClient, WRONG.__contains__)
