"""Accept and Accept-Encoding (RFC 9110, section 12.5)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Final

CHOICES: Final = 32
"""Members of a header, and parameters of a member, that are looked at."""

SMALL: Final = 1024
"""Bytes that are not worth compressing: gzip and deflate are for answers of numbers, not for images."""

_LEVEL: Final = 1  # more effort gains little


def weighted(header: str) -> Iterator[tuple[str, float]]:
    """The members of a header, in lower case, with their q values; 0 for one that is no number."""
    for member in header.lower().split(",", CHOICES)[:CHOICES]:
        name, *parameters = (piece.strip() for piece in member.split(";", CHOICES)[:CHOICES])
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        yield name, weight


def compressed(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """A body in the encoding that the client's Accept-Encoding prefers, and the encoding, if any.

    Of several with equal weight, the first. A small body is not compressed.
    """
    best, encoding = 0.0, None
    for name, weight in weighted(accepted):
        if name in ("gzip", "deflate") and weight > best:
            best, encoding = weight, name
    if encoding is None or len(body) < SMALL:
        return body, None
    if encoding == "gzip":
        return gzip.compress(body, _LEVEL, mtime=0), encoding
    return zlib.compress(body, _LEVEL), encoding
