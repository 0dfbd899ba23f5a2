"""gzip and deflate, both ways, for the Open Inference routes alone: pictures are compressed already."""

from __future__ import annotations

import gzip
import zlib

from models.errors import ImageTooLarge, MediaTypeUnsupported, ParameterInvalid

SMALL = 1024
"""Bytes that are not worth compressing."""

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's way to name the two containers
_LEVEL = 1  # an answer is numbers; more effort gains little


def decompressed(body: bytes, encoding: str, most: int) -> bytes:
    """A body as it was before its Content-Encoding; never holds more than `most` bytes of it.

    Raises:
        MediaTypeUnsupported: an encoding that is not gzip, deflate or identity.
        ImageTooLarge: there would be more.
        ParameterInvalid: it is not so encoded, or cut short.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOW:
        raise MediaTypeUnsupported(f"the content encoding {encoding!r} is not accepted; send gzip or deflate")
    # some write "deflate" without zlib's two bytes in front, which RFC 9110 wants
    bare = encoding == "deflate" and not (len(body) > 1 and int.from_bytes(body[:2], "big") % 31 == 0)
    inflater = zlib.decompressobj(-15 if bare else _WINDOW[encoding])
    try:
        data = inflater.decompress(body, most + 1)
    except zlib.error:
        raise ParameterInvalid("Content-Encoding", f"the body is not {encoding}") from None
    if len(data) > most:
        raise ImageTooLarge(f"the body has more than {most} bytes, decompressed; that is the most accepted")
    if not inflater.eof or inflater.unused_data:
        raise ParameterInvalid("Content-Encoding", f"the {encoding} body is cut short, or goes on")
    return data


def compressed(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """A body as the client's Accept-Encoding likes it best, and the encoding, if any.

    Of several that are liked equally, the first. A small body stays as it is.
    """
    best, encoding = 0.0, None
    for part in accepted.lower().split(","):
        name, _, parameters = (piece.strip() for piece in part.partition(";"))
        if name in ("gzip", "deflate"):
            weight = _weight(parameters)
            if weight > best:
                best, encoding = weight, name
    if encoding is None or len(body) < SMALL:
        return body, None
    if encoding == "gzip":
        return gzip.compress(body, _LEVEL, mtime=0), encoding
    return zlib.compress(body, _LEVEL), encoding


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
