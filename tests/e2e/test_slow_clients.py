"""Clients that hold connections and send next to nothing, against a real server; others get their answers."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import time
from collections.abc import Iterator, Sequence

import httpx
import pytest

from tests.server import Server

pytestmark = pytest.mark.e2e

CROWD = 1000
REQUEST = b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-type: image/jpeg\r\ncontent-length: 50000\r\n"
TIMEOUT = 180.0
"""Longest that this test waits for anything, seconds."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("slow") / "log",
        models="efficientnet-lite0",
        workers=2,
        threads=1,
        header_timeout_seconds=8,
        body_timeout_seconds=2,
        drain_seconds=0,
    )
    try:
        server.wait(300)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module", autouse=True)
def files() -> Iterator[None]:
    """Enough of them for a crowd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CROWD + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this system lets a process open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(port: int, send: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    connection.sendall(send)
    return connection


def wait_until_cut(connections: Sequence[socket.socket], drip: bytes = b"") -> None:
    """Until the server has ended every one of them, sending these bytes to each now and then."""
    selector = selectors.DefaultSelector()
    for connection in connections:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
    end = time.monotonic() + TIMEOUT
    while selector.get_map():
        assert time.monotonic() < end, f"{len(selector.get_map())} connections are open still"
        for key, _ in selector.select(1.0):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(4096) == b""
            selector.unregister(connection)
        for key in list(selector.get_map().values()):
            if drip:
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(OSError):  # cut just now
                    key.fileobj.send(drip)
    selector.close()


def test_many_held_connections_do_not_delay_others(server: Server, dog: bytes) -> None:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
        assert client.post("/v1/classify", content=dog).status_code == 200
        crowd = [connect(server.port, REQUEST if number % 2 else b"") for number in range(CROWD)]
        try:
            for _ in range(10):
                assert client.post("/v1/classify", content=dog).status_code == 200
            with httpx.Client(base_url=server.url, timeout=TIMEOUT) as late:  # a connection after all theirs
                assert late.post("/v1/classify", content=dog).status_code == 200
            wait_until_cut(crowd)
        finally:
            for connection in crowd:
                connection.close()
        assert client.post("/v1/classify", content=dog).status_code == 200


def test_a_header_that_never_ends_is_cut(server: Server) -> None:
    slow = [connect(server.port, REQUEST) for _ in range(4)]
    try:
        wait_until_cut(slow, drip=b"x: y\r\n")
    finally:
        for connection in slow:
            connection.close()


def test_a_body_that_stops_is_answered_408_and_the_connection_closed(server: Server) -> None:
    connection = connect(server.port, REQUEST + b"\r\n" + b"\xff\xd8")
    with connection:
        answer = bytearray()
        while part := connection.recv(4096):  # until it is closed
            answer += part
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    assert b"connection: close" in answer.lower()


def test_a_body_a_byte_at_a_time_ends_at_the_requests_deadline(server: Server) -> None:
    connection = connect(server.port, REQUEST + b"x-timeout-ms: 4000\r\n\r\n")
    with connection:
        connection.settimeout(0.5)
        end = time.monotonic() + TIMEOUT
        while True:
            assert time.monotonic() < end
            connection.send(b"y")
            try:
                answer = connection.recv(4096)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 504 ")


def test_a_grpc_connection_that_says_nothing_is_cut(server: Server) -> None:
    with connect(server.grpc_port) as connection, contextlib.suppress(ConnectionError):
        while connection.recv(4096):  # the server's own settings come first
            pass
