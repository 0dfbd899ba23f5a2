"""gzip and deflate of answers, for the Open Inference routes alone: images are compressed already."""

from __future__ import annotations

import gzip
import zlib

from service.web.negotiation import weighted

SMALL = 1024
"""Bytes that are not worth compressing."""

_LEVEL = 1  # an answer is numbers; more effort gains little


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
