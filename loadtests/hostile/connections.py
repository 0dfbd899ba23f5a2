"""Clients that hold connections rather than send much: idle, silent, or never reading."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from loadtests.hostile.documents import form, part
from loadtests.hostile.send import Outcome, Target
from loadtests.message import field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""HTTP/2's preface and an empty SETTINGS frame (RFC 9113, 3.4)."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Connections that send as little as possible, held for some seconds while `/livez` is requested.

    Attributes:
        count: at most so many: what the client may open besides.
        grpc: to the port of gRPC, with a preface; else to that of HTTP, with nothing.
        seconds: how long they are held.
    """

    count: int
    grpc: bool
    seconds: float

    def size(self) -> int:
        return self.count * len(PREFACE) if self.grpc else 0

    def __call__(self, target: Target) -> Outcome:
        held: list[socket.socket] = []
        try:
            for _ in range(self.count):
                with contextlib.suppress(OSError):
                    connection = socket.create_connection(
                        target.grpc_host if self.grpc else target.host, timeout=2
                    )
                    held.append(connection)
                    if self.grpc:
                        connection.sendall(PREFACE)
            end = time.monotonic() + self.seconds
            worst = "200"
            while time.monotonic() < end:
                status = probe(target)
                worst = status if status != "200" else worst
                time.sleep(0.1)
            return Outcome(worst, len(held))
        finally:
            for connection in held:
                connection.close()


@dataclass(frozen=True, slots=True)
class Streams:
    """Open streams of gRPC that receive, and nothing else: `Health.Watch`."""

    count: int
    seconds: float

    def size(self) -> int:
        return self.count

    def __call__(self, target: Target) -> Outcome:
        channels = [
            grpc.insecure_channel(target.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(max(1, self.count // 500))
        ]
        calls: list[Any] = []
        for index in range(self.count):
            channel = channels[index % len(channels)]
            watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
            calls.append(watch(b""))
        time.sleep(self.seconds)
        status = probe(target)
        for call in calls:
            call.cancel()
        for channel in channels:
            channel.close()
        return Outcome(status, len(calls))


@dataclass(frozen=True, slots=True)
class Slow:
    """Bodies that stop just before their end, and stay silent for some seconds.

    Attributes:
        count: connections, each with a body of its own.
        length: of each body, bytes, of which one is never sent.
        seconds: of silence.
    """

    count: int
    length: int
    seconds: float

    def size(self) -> int:
        return self.count * self.length

    def __call__(self, target: Target) -> Outcome:
        head = (
            "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {self.length}\r\n\r\n"
        ).encode()
        seen: list[str] = []

        def hold() -> None:
            with contextlib.suppress(OSError), socket.create_connection(target.host, timeout=5) as connection:
                connection.sendall(head)
                block, left = bytes(1 << 20), self.length - 1
                while left > 0:
                    connection.sendall(block[: min(left, len(block))])
                    left -= len(block)
                connection.settimeout(self.seconds)
                with contextlib.suppress(TimeoutError):
                    words = connection.recv(64).split(b" ")
                    seen.append(words[1].decode() if len(words) > 1 else "closed")
                    return
            seen.append("refused or silent")

        threads = [threading.Thread(target=hold) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Outcome(" ".join(f"{seen.count(one)}x{one}" for one in sorted(set(seen))))


@dataclass(frozen=True, slots=True)
class Unread:
    """Requests whose answers are never read, held for some seconds."""

    count: int
    path: str
    accept: str
    image: Callable[[], bytes]
    seconds: float

    def size(self) -> int:
        return self.count * len(self.image())

    def __call__(self, target: Target) -> Outcome:
        image = self.image()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nAccept: {self.accept}\r\n"
            f"Content-Length: {len(image)}\r\n\r\n"
        ).encode()
        held = []
        for _ in range(self.count):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(5)
            connection.connect(target.host)
            connection.sendall(head + image)
            held.append(connection)
        time.sleep(self.seconds)
        closed = 0
        for connection in held:
            connection.settimeout(0.5)
            with contextlib.suppress(OSError):
                while connection.recv(1 << 20):
                    pass
                closed += 1
            connection.close()
        return Outcome(probe(target), closed)


@dataclass(frozen=True, slots=True)
class Jobs:
    """The longest jobs of one client, then a short one of another address; all are cancelled in the end.

    Attributes:
        image: content and style.
        count: submissions.
    """

    image: Callable[[], bytes]
    count: int

    def size(self) -> int:
        return self.count * 2 * len(self.image())

    def __call__(self, target: Target) -> Outcome:
        image = self.image()
        body = form(part(image, "content"), part(image, "style"))
        path = "/v1/stylize/jobs?size=1024&steps=1000&levels=2"
        places: list[str] = []
        try:
            mine = [_submit(target, path, body, places) for _ in range(self.count)]
            others = _submit(target, "/v1/stylize/jobs?size=64&steps=1", body, places, source="127.0.0.2")
        finally:
            for place in places:
                _cancel(target, place)
        mine_seen = " ".join(f"{mine.count(one)}x{one}" for one in sorted(set(mine)))
        return Outcome(f"{mine_seen}, another's {others}")


def zeros(count: int) -> bytes:
    """A `ModelInferRequest` with a raw content of zeros; not a valid one."""
    return field(1, b"efficientnet-lite0") + field(7, bytes(count))


def probe(target: Target) -> str:
    """The status of `/livez` on a connection of its own."""
    connection = http.client.HTTPConnection(target.address, timeout=5)
    try:
        connection.request("GET", "/livez")
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def trickle(head: bytes, pieces: Sequence[bytes]) -> Callable[[], Iterator[bytes]]:
    """Pieces for `send.Raw`."""

    def each() -> Iterator[bytes]:
        yield head
        yield from pieces

    return each


def _submit(target: Target, path: str, body: bytes, places: list[str], source: str = "") -> str:
    address = (source, 0) if source else None
    connection = http.client.HTTPConnection(target.address, timeout=30, source_address=address)
    try:
        connection.request("POST", path, body, {"Content-Type": "multipart/form-data; boundary=b"})
        answer = connection.getresponse()
        answer.read()
        if place := answer.getheader("Location"):
            places.append(place)
        return str(answer.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def _cancel(target: Target, job: str) -> None:
    connection = http.client.HTTPConnection(target.address, timeout=30)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("DELETE", job)
        connection.getresponse().read()
    connection.close()
