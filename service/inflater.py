"""gzip and deflate of what clients send, inflated in bounded pieces."""

from __future__ import annotations

import io
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from models.errors import ImageTooLarge, MediaTypeUnsupported, ParameterInvalid, echoed

STEP: Final = 1024 * 1024
"""Bytes that are given to the decompressor at once: it copies what it leaves of them."""

PIECE: Final = 4 * 1024 * 1024
"""Bytes that it gives at once, in a few milliseconds."""

INLINE: Final = 64 * 1024
"""Bytes that are inflated in the event loop; the others in a thread."""

Work: TypeAlias = Callable[[], bytes]

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's way to name the two containers


class Inflater:
    """A body or message as it was before it was compressed, a piece at a time.

    Args:
        body: as received.
        encoding: as Content-Encoding names it.
        most: bytes of the whole.
        parameter: what the errors name.
        advice: ends the error's text, where `most` is exceeded.

    Raises:
        MediaTypeUnsupported: an encoding that is not gzip or deflate.
    """

    def __init__(self, body: bytes, encoding: str, most: int, parameter: str, advice: str = "") -> None:
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
        self._most, self._parameter, self._advice = most, parameter, advice
        self._length = 0

    @property
    def ended(self) -> bool:
        """Whether no piece is left and nothing follows the last one."""
        return self._stream.eof and not self._stream.unused_data and self._position >= len(self._body)

    def piece(self, most: int = PIECE) -> bytes:
        """The next piece, of at most `most` bytes; empty at the end.

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
                data = stream.decompress(taken, min(most, self._most + 1 - self._length))
            except zlib.error:
                raise ParameterInvalid(self._parameter, f"the body is not {self._encoding}") from None
        self._length += len(data)
        if self._length > self._most:
            what = f"the body has more than {self._most} bytes, decompressed; that is the most accepted"
            raise ImageTooLarge(what + self._advice)
        if not data and not self.ended:
            what = f"the {self._encoding} body is cut short, or goes on"
            raise ParameterInvalid(self._parameter, what)
        return data

    async def whole(self, grow: Callable[[int], None], run: Callable[[Work], Awaitable[bytes]]) -> bytes:
        """All of it.

        Args:
            grow: called with the size of each piece before it is kept.
            run: does the work for a piece that is not small in a thread.

        Raises:
            ImageTooLarge, ParameterInvalid: as `piece`.
        """
        found, part = io.BytesIO(), self.piece(INLINE)
        while part:
            grow(len(part))
            found.write(part)
            part = b"" if self.ended else await run(self.piece)
        return found.getvalue()  # without a copy: the buffer itself
