"""How a case is sent, once, by a client of its own."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """The server that is asked.

    Attributes:
        address, grpc_address: ``host:port``.
        timeout: after so many seconds the client disconnects.
    """

    address: str
    grpc_address: str
    timeout: float = 30.0

    @property
    def host(self) -> tuple[str, int]:
        host, _, port = self.address.partition(":")
        return host, int(port)

    @property
    def grpc_host(self) -> tuple[str, int]:
        host, _, port = self.grpc_address.partition(":")
        return host, int(port)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome for a client.

    Attributes:
        status: of HTTP or of gRPC; ``disconnected`` after the client's own timeout; an error's name where the
            connection failed.
        answered: bytes of the answer's body.
    """

    status: str
    answered: int = 0


@dataclass(frozen=True, slots=True)
class Http:
    """A request over HTTP: sent whole, the answer read whole."""

    path: str
    body: Callable[[], bytes]
    headers: Mapping[str, str] = field(default_factory=dict)

    def within(self, milliseconds: int) -> Http:
        """The same with a deadline."""
        return replace(self, headers={**self.headers, "X-Timeout-Ms": str(milliseconds)})

    def size(self) -> int:
        return len(self.body())

    def __call__(self, target: Target) -> Outcome:
        body = self.body()
        connection = http.client.HTTPConnection(target.address, timeout=target.timeout)
        try:
            headers = {"Content-Type": "application/octet-stream", **self.headers}
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered already
                connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            return Outcome(str(answer.status), _drained(answer))
        except TimeoutError:
            return Outcome("disconnected")
        except (OSError, http.client.HTTPException) as error:
            return Outcome(type(error).__name__)
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Grpc:
    """A call with these messages, each as its bytes."""

    method: str
    messages: Sequence[Callable[[], bytes]]
    gzip: bool = True
    stream: bool = False
    timeout: float | None = None

    def within(self, milliseconds: int) -> Grpc:
        """The same with a deadline."""
        return replace(self, timeout=milliseconds / 1000)

    def size(self) -> int:
        return sum(len(message()) for message in self.messages)

    def __call__(self, target: Target) -> Outcome:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        compression = grpc.Compression.Gzip if self.gzip else grpc.Compression.NoCompression
        timeout = target.timeout if self.timeout is None else self.timeout
        with grpc.insecure_channel(target.grpc_address, options=options) as channel:
            try:
                answered = 0
                if self.stream:
                    call: Any = channel.stream_stream(f"/{self.method}")
                    replies = call(self._each(), timeout=timeout, compression=compression)
                    for reply in replies:
                        answered += len(reply)
                else:
                    unary: Any = channel.unary_unary(f"/{self.method}")
                    answered = len(unary(self.messages[0](), timeout=timeout, compression=compression))
                return Outcome("OK", answered)
            except grpc.RpcError as error:
                code = error.code().name
                details = len(error.details() or "")
                own = code == "DEADLINE_EXCEEDED" and self.timeout is None
                return Outcome("disconnected" if own else code, details)

    def _each(self) -> Iterator[bytes]:
        for message in self.messages:
            yield message()


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes to the socket of HTTP as they are; then the answer's first line.

    Attributes:
        pieces: sent one after another.
        pause: seconds between two of them.
        half: whether the sending side is closed then.
    """

    pieces: Callable[[], Iterator[bytes]]
    pause: float = 0.0
    half: bool = False
    length: int = 0

    def size(self) -> int:
        return self.length

    def __call__(self, target: Target) -> Outcome:
        with socket.create_connection(target.host, timeout=target.timeout) as connection:
            end = time.monotonic() + target.timeout
            try:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    for piece in self.pieces():
                        connection.sendall(piece)
                        if self.pause:
                            time.sleep(self.pause)
                        if time.monotonic() > end:
                            return Outcome("disconnected")
                    if self.half:
                        connection.shutdown(socket.SHUT_WR)
                first = b""
                while b"\r\n" not in first and (more := connection.recv(4096)):
                    first += more
            except TimeoutError:
                return Outcome("disconnected")
            except OSError as error:
                return Outcome(type(error).__name__)
        words = first.split(b" ", 2)
        return Outcome(words[1].decode() if len(words) > 1 else "closed", len(first))


def _drained(answer: http.client.HTTPResponse) -> int:
    total = 0
    while chunk := answer.read(CHUNK):
        total += len(chunk)
    return total
