"""Protobuf messages on the wire, without the libraries of the service."""

from __future__ import annotations

from collections.abc import Sequence


def message(images: Sequence[bytes], model: str = "") -> bytes:
    """A protobuf message whose fields 1, 2 ... are these bytes, and the next one the model's name, if any."""
    contents = [*images, *([model.encode()] if model else [])]
    return b"".join(field(number, content) for number, content in enumerate(contents, start=1))


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field (https://protobuf.dev/programming-guides/encoding)."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A base-128 integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
