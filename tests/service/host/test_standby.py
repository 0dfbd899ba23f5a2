"""What stands by for the workers, on a real socket."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from service.host.standby import Standby


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_it_refuses_at_once_while_it_is_needed(listener: socket.socket) -> None:
    needed = threading.Event()
    standby = Standby(listener, needed.is_set)
    standby.start()
    waiting = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=60)
    waiting.request("POST", "/v1/classify", b"x" * 1_000_000)
    needed.set()
    answer = waiting.getresponse()
    assert answer.status == 503
    assert answer.headers["connection"] == "close"
    assert int(answer.headers["retry-after"]) >= 1
    assert b'"not_ready"' in answer.read()
    waiting.close()
    standby.stop()


def test_it_leaves_connections_to_the_workers_else(listener: socket.socket) -> None:
    asked = threading.Event()

    def needed() -> bool:
        asked.set()
        return False

    standby = Standby(listener, needed)
    standby.start()
    with socket.create_connection(listener.getsockname(), timeout=60):
        asked.clear()
        assert asked.wait(60)
        listener.settimeout(60)
        listener.accept()[0].close()  # a worker has it
    standby.stop()


def test_it_listens_no_more_once_it_is_stopped(listener: socket.socket) -> None:
    address = listener.getsockname()
    standby = Standby(listener, lambda: True)
    standby.start()
    standby.stop()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=60)
