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


def wait_until_cut(connections: Sequence[socket.socket], slow: Sequence[socket.socket]) -> None:
    """Until the server has ended every one of them, of which these send a bit more now and then."""
    selector = selectors.DefaultSelector()
    for connection in connections:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
    end = time.monotonic() + TIMEOUT
    while left := selector.get_map():
        assert time.monotonic() < end, f"{len(left)} connections are open still"
        for key, _ in selector.select(1.0):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            with contextlib.suppress(ConnectionError):
                assert connection.recv(4096) == b""
            selector.unregister(connection)
        for connection in slow:
            with contextlib.suppress(OSError):  # cut already
                connection.send(b"x: y\r\n")
    selector.close()


def test_many_held_connections_do_not_delay_others_and_are_cut(server: Server, dog: bytes) -> None:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT) as client:
        assert client.post("/v1/classify", content=dog).status_code == 200
        grpc = connect(server.grpc_port)
        crowd = [connect(server.port, REQUEST if number % 2 else b"") for number in range(CROWD)]
        try:
            for _ in range(10):
                assert client.post("/v1/classify", content=dog).status_code == 200
            with httpx.Client(base_url=server.url, timeout=TIMEOUT) as late:  # a connection after all theirs
                assert late.post("/v1/classify", content=dog).status_code == 200
            wait_until_cut(crowd, slow=crowd[1:9:2])  # a header that never ends
            with contextlib.suppress(ConnectionError):
                while grpc.recv(4096):  # the server's own settings come first
                    pass
        finally:
            for connection in (grpc, *crowd):
                connection.close()
        assert client.post("/v1/classify", content=dog).status_code == 200
