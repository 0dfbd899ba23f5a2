"""Protobuf messages on the wire, without the libraries of the service."""

from __future__ import annotations

from collections.abc import Sequence


def message(images: Sequence[bytes], model: str = "") -> bytes:
    """A protobuf message whose fields 1, 2 ... are these bytes, and the next one the model's name, if any."""
    contents = [*images, *([model.encode()] if model else [])]
    return b"".join(field(number, content) for number, content in enumerate(contents, start=1))


def field(number: int, content: bytes) -> bytes:
    """A field of bytes on the wire (https://protobuf.dev/programming-guides/encoding)."""
    length, varint = len(content), bytearray()
    while length > 127:
        varint.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *varint, length]) + content
