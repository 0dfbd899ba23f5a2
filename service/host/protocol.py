"""One HTTP connection: uvicorn's protocol with bounds on what comes before a request is one.

uvicorn takes headers, trailers and pipelined requests of any number and size, and closes a connection whose
client has shut its sending side, though the client may still wait for its answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import HeaderTooLarge, ServiceError, problem_of

logger = logging.getLogger(__name__)

HEAD_BYTES: Final = 32 * 1024
"""Most bytes of a request's line and headers, or of trailers: as much as nginx takes by default."""

PIPELINED: Final = 32
"""Most requests that wait on one connection for the one before them."""

CHUNKS: Final = 131_072
"""Chunks of one body that may be under 64 bytes, each a call from the parser: 0.1 s of the event loop."""

LINGER: Final = 1.0
"""Seconds that a refused client has to read the refusal."""

IDLE: Final = 75
"""Seconds that a connection may be idle between two requests, as nginx allows. Proxies keep one for 60 by
default: it has to be the side that sends that closes first, or a request meets the end of its connection."""

KEPT: Final = 60.0
"""Seconds after which a kept connection ends with its next answer: the client's next one goes to the worker
that has the fewest, wherever an overload has left them."""

PROBES: Final = (0.02, 1.0)
"""Seconds until the client of a half-closed connection is first probed; at most."""

_VERSION: Final = b"HTTP/1.1 "


class Refusal(asyncio.Protocol):
    """Sends a client its refusal, and closes the connection.

    What it sends is read meanwhile: a socket closed with bytes unread resets the connection, and the answer
    might be lost.
    """

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        stream.write(self._answer)
        if stream.can_write_eof():
            stream.write_eof()
            self._timer = asyncio.get_running_loop().call_later(LINGER, stream.abort)
        else:  # TLS
            stream.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()


def refusal(error: ServiceError) -> bytes:
    """The whole answer, in bytes, to a request that reaches no application."""
    problem = problem_of(error)
    body = json.dumps(problem.body()).encode()
    retry = (
        b"" if problem.retry_after is None else b"retry-after: %d\r\n" % max(1, round(problem.retry_after))
    )
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\n%bconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b"
        % (problem.kind.http, HTTPStatus(problem.kind.http).phrase.encode(), retry, len(body), body)
    )


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the bounds of this module.

    - A request's line and headers have at most `HEAD_BYTES`, else 431; trailers of a chunked body have as
      many, else the connection is aborted.
    - A body of very many tiny chunks is no HTTP (see `CHUNKS`).
    - At most `PIPELINED` requests wait for their turn, else the connection is aborted.
    - A client that shuts its sending side after a whole request is answered. Whether it is still connected is
      found by sending it the first bytes of every answer: if it has closed the connection, its system
      answers that with a reset, and the request is cancelled.
    - What is no HTTP is answered 400 and logged for debugging only.
    - A connection may be idle for `IDLE` seconds. It ends with an answer (`Connection: close`) once it is
      `KEPT` seconds old, or the server is `leaving`: no client finds it closed by its next request.
    """

    leaving: Callable[[], bool] = staticmethod(lambda: False)
    _began = 0.0

    _loose = 0
    """Bytes since the last headers that were complete or the last byte of a body."""

    _in_body = False
    """Headers have come, and not all of the body."""

    _tiny = 0
    """Parts of this body so far, less one for every whole 64 bytes of each."""

    _replayed = False
    """The parser is given headers that have been seen."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._began = self.loop.time()

    def data_received(self, data: bytes) -> None:
        room = HEAD_BYTES - self._loose
        if self._in_body or len(data) <= room:
            self._feed(data)
        else:
            self._feed(memoryview(data)[:room])
            if self._loose < HEAD_BYTES:  # the headers were within it
                self._feed(memoryview(data)[room:])
        if self._loose >= HEAD_BYTES:
            self._refuse_head()

    def _feed(self, data: bytes | memoryview) -> None:
        if self.parser is None or self.transport.is_closing():
            return
        self._loose += len(data)  # the parser's callbacks set it back
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                logger.debug("what came is not HTTP")
                self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as offer:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._ignore_upgrade(memoryview(data)[offer.args[0] :])

    def _ignore_upgrade(self, rest: memoryview) -> None:
        """Goes on with a request whose client offered another protocol.

        llhttp ends it with its headers, so its body is given to a new parser, behind those headers that say
        how long it is.
        """
        self.parser = httptools.HttpRequestParser(self)
        framing = [
            b"%b: %b\r\n" % pair
            for pair in self.headers
            if pair[0] in (b"content-length", b"transfer-encoding")
        ]
        if framing:
            self._in_body = self.cycle.more_body = self._replayed = True
            try:
                self._feed(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            finally:
                self._replayed = False
        self._feed(rest)

    def on_message_begin(self) -> None:
        if not self._replayed:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._replayed:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._replayed:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._replayed:
            return
        self._loose = 0
        if len(self.pipeline) >= PIPELINED:
            self.transport.abort()
            raise ValueError("too many pipelined requests")  # ends the parser
        self._in_body = True
        self._tiny = 0
        super().on_headers_complete()
        if self.cycle is not None and (self.loop.time() - self._began > KEPT or self.leaving()):
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._loose = 0
        self._tiny += 1 - len(body) // 64
        if self._tiny > CHUNKS:
            if self.cycle is None or self.cycle.response_started:
                self.transport.abort()
            raise ValueError("too many tiny chunks")  # ends the parser
        super().on_body(body)

    def _refuse_head(self) -> None:
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:  # its answer cannot be overtaken
            self.transport.abort()
            return
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        parting = Refusal(refusal(HeaderTooLarge(f"a request's headers may have {HEAD_BYTES} bytes")))
        self.transport.set_protocol(parting)
        parting.connection_made(self.transport)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Whether the connection stays open for the answer to a request that has come as a whole."""
        cycle = self.cycle
        if (
            cycle is None
            or cycle.more_body
            or cycle.response_started
            or self.pipeline
            or self.scheme == "https"  # TLS cannot be closed by half
        ):
            return None
        cycle.keep_alive = False
        if not isinstance(cycle.transport, _Begun):
            self.transport.write(_VERSION)
            cycle.transport = cast(asyncio.Transport, _Begun(self.transport))
            self._probe_later(cycle, PROBES[0])
        return True

    def _probe_later(self, cycle: Any, seconds: float) -> None:
        self.loop.call_later(seconds, self._probe, cycle, seconds)

    def _probe(self, cycle: Any, seconds: float) -> None:
        transport = self.transport
        if transport.is_closing() or cycle.response_started:
            return
        connection = transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            transport.abort()
        else:
            self._probe_later(cycle, min(2 * seconds, PROBES[1]))


class _Begun:
    """A transport on which the first bytes of an answer have been sent already."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._first = True

    def write(self, data: bytes) -> None:
        if self._first:
            self._first = False
            data = data.removeprefix(_VERSION)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def bounded(factory: Callable[[], Any], leaving: Callable[[], bool]) -> Callable[[], Any]:
    """A factory of protocols that gives a `BoundedProtocol` for each of uvicorn's on httptools."""

    def make() -> Any:
        plain = factory()
        if type(plain) is not HttpToolsProtocol:
            return plain
        # not connected yet: nothing of it has been used
        protocol = BoundedProtocol(plain.config, plain.server_state, plain.app_state, plain.loop)
        protocol.leaving = leaving
        protocol.timeout_keep_alive = IDLE
        return protocol

    return make
