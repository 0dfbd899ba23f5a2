"""gzip and deflate, both ways, for the Open Inference routes alone: images are compressed already."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Final

from models.errors import ImageTooLarge, MediaTypeUnsupported, ParameterInvalid, echoed
from service.web.negotiation import weighted

SMALL = 1024
"""Bytes that are not worth compressing."""

STEP: Final = 1024 * 1024
"""Bytes that are given to the decompressor at once."""

PIECE: Final = 4 * 1024 * 1024
"""Bytes that it gives at once, in a few milliseconds."""

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's way to name the two containers
_LEVEL = 1  # an answer is numbers; more effort gains little


class Inflater:
    """A body as it was before its Content-Encoding, a piece at a time.

    Args:
        body: as received.
        encoding: its Content-Encoding.
        most: bytes of the whole.
        advice: ends the error's text, where `most` is exceeded.

    Raises:
        MediaTypeUnsupported: an encoding that is not gzip or deflate.
    """

    def __init__(self, body: bytes, encoding: str, most: int, advice: str = "") -> None:
        self._encoding = encoding = encoding.strip().lower()
        if encoding not in _WINDOW:
            raise MediaTypeUnsupported(
                f"the content encoding {echoed(encoding)} is not accepted; send gzip or deflate"
            )
        # some write "deflate" without zlib's two bytes in front, which RFC 9110 wants
        bare = encoding == "deflate" and not (len(body) > 1 and int.from_bytes(body[:2], "big") % 31 == 0)
        self._stream = zlib.decompressobj(-15 if bare else _WINDOW[encoding])
        self._body = memoryview(body)
        self._position = 0
        self._most, self._advice = most, advice
        self._length = 0

    def piece(self) -> bytes:
        """The next piece, of at most `PIECE` bytes; empty at the end.

        Raises:
            ImageTooLarge: there would be more than `most`.
            ParameterInvalid: it is not so encoded, or cut short.
        """
        stream, data = self._stream, b""
        while not data and not stream.eof:
            taken = stream.unconsumed_tail
            if not taken:
                taken = bytes(self._body[self._position : self._position + STEP])
                self._position += len(taken)
                if not taken:
                    break
            try:
                data = stream.decompress(taken, min(PIECE, self._most + 1 - self._length))
            except zlib.error:
                raise ParameterInvalid("Content-Encoding", f"the body is not {self._encoding}") from None
        self._length += len(data)
        if self._length > self._most:
            what = f"the body has more than {self._most} bytes, decompressed; that is the most accepted"
            raise ImageTooLarge(what + self._advice)
        if not data and (not stream.eof or stream.unused_data or self._position < len(self._body)):
            what = f"the {self._encoding} body is cut short, or goes on"
            raise ParameterInvalid("Content-Encoding", what)
        return data


def decompressed(body: bytes, encoding: str, most: int) -> bytes:
    """A body as it was before its Content-Encoding; never holds more than `most` bytes of it.

    Raises as `Inflater` does.
    """
    if encoding.strip().lower() in ("", "identity"):
        return body
    inflater, whole = Inflater(body, encoding, most), io.BytesIO()
    while data := inflater.piece():
        whole.write(data)
    return whole.getvalue()


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
