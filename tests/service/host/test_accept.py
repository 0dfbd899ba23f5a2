"""Fair accepting: connections opened at once are shared between those who listen on one socket."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from typing import Any

import pytest

from service.host import accept
from service.host.accept import FairServer, share_fairly


class Named(asyncio.Protocol):
    """Tells a client who has accepted it."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._name)


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setblocking(False)
    return listener


def test_sixteen_connections_at_once_are_shared_by_two() -> None:
    async def go() -> Counter[bytes]:
        loop = asyncio.get_running_loop()
        first = listening()
        second = first.dup()  # as a forked worker has it
        servers = [
            FairServer(loop, first, lambda: Named(b"1")),
            FairServer(loop, second, lambda: Named(b"2")),
        ]
        port = first.getsockname()[1]
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]
        names: Counter[bytes] = Counter()
        for client in clients:
            client.setblocking(False)
            names[await loop.sock_recv(client, 1)] += 1
        for client in clients:
            client.close()
        for server in servers:
            server.close()
            assert server.sockets == ()
            await server.wait_closed()
            await server.finish()
        first.close()
        second.close()
        await asyncio.sleep(0.05)  # the transports see that their clients are gone
        return names

    names = asyncio.run(go())
    assert set(names) == {b"1", b"2"}
    assert min(names.values()) >= 5


def test_only_servers_on_a_given_socket_are_fair() -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        share_fairly(loop)
        listener = listening()
        fair = await loop.create_server(lambda: Named(b"1"), sock=listener, backlog=8)
        assert isinstance(fair, FairServer)
        assert fair.sockets
        listener.close()
        await fair.finish()
        plain = await loop.create_server(lambda: Named(b"1"), "127.0.0.1", 0)
        assert not isinstance(plain, FairServer)
        plain.close()
        await plain.wait_closed()

    asyncio.run(go())


def test_one_that_stops_refuses_until_it_listens_no_more() -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        listener = listening()
        address = listener.getsockname()
        server = FairServer(loop, listener, lambda: Named(b"1"))
        server.close()
        listener.close()  # as uvicorn does
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 60)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            assert b"connection: close\r\n" in answer
            assert b'"not_ready"' in answer
            writer.close()
        waiting = [socket.create_connection(address) for _ in range(4)]  # not accepted yet
        await server.finish()
        for client in waiting:
            client.settimeout(60)
            assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
            client.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    asyncio.run(go())


class Exhausted(socket.socket):
    """Accepts nothing the first time: the process has no file left."""

    asked = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.asked == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_without_a_file_left_it_rests_and_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accept, "REST", 0.01)

    async def go() -> None:
        loop = asyncio.get_running_loop()
        plain = listening()
        listener = Exhausted(fileno=plain.detach())
        server = FairServer(loop, listener, lambda: Named(b"1"))
        client = socket.create_connection(listener.getsockname())
        client.setblocking(False)
        assert await asyncio.wait_for(loop.sock_recv(client, 1), 60) == b"1"
        client.close()
        await server.finish()
        listener.close()
        await asyncio.sleep(0.05)  # the transport sees that its client is gone

    asyncio.run(go())
    (record,) = caplog.records
    assert "Too many open files" in record.getMessage()
