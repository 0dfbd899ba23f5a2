"""Clients that send nothing, or never enough, against uvicorn itself: its protocols are what is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from service.host import protocol
from service.host.accept import share_fairly
from service.host.connections import SPARE, ConnectionGuard, raise_open_files

SECONDS = 0.5
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"


class Site:
    """uvicorn in this loop, watched; `/held` answers when it is let go, the rest at once, body or not."""

    def __init__(self, http: str, most: int, *, fair: bool) -> None:
        loop = asyncio.get_running_loop()
        self._fair = share_fairly(loop) if fair else []
        self.leaving = False
        ConnectionGuard(SECONDS, most, loop, lambda: self.leaving).watch()
        self.let_go = asyncio.Event()
        self._clients: list[Client] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            self._app,
            http=http,  # type: ignore[arg-type]
            interface="asgi3",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=3600,
        )
        self._server = uvicorn.Server(config)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            await self.let_go.wait()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async def run(self) -> None:
        await self._server.serve(sockets=[self._listener])
        for server in self._fair:
            await server.finish()

    async def stop(self) -> None:
        self.let_go.set()
        for client in self._clients:
            await client.close()
        self._server.should_exit = True

    async def open(self) -> Client:
        """A connection."""
        self._clients.append(Client(*await asyncio.open_connection(*self._listener.getsockname())))
        return self._clients[-1]


class Client:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> bytes:
        """The head of the next answer; its body is read too."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await self.reader.readexactly(int(length.partition(b":")[2]))
        return head

    async def cut(self, dribble: bytes = b"") -> None:
        """Waits until the server ends the connection, sending these bytes one by one meanwhile."""

        async def send() -> None:
            for byte in dribble:
                self.send(bytes([byte]))
                await asyncio.sleep(SECONDS / 20)

        sending = asyncio.create_task(send())
        try:
            assert await asyncio.wait_for(self.reader.read(), 60) == b""
        except ConnectionError:
            pass
        finally:
            sending.cancel()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def serving(http: str = "httptools", most: int = 8, *, fair: bool = False) -> AsyncIterator[Site]:
    site = Site(http, most, fair=fair)
    running = asyncio.create_task(site.run())
    try:
        yield site
    finally:
        await site.stop()
        await running


def in_loop(test: Coroutine[Any, Any, None], loop: str = "asyncio") -> None:
    """Runs a test in the standard library's loop, or in that which workers have."""
    (uvloop if loop == "uvloop" else asyncio).run(test)


@pytest.mark.parametrize(
    ("http", "loop"), [("httptools", "uvloop"), ("httptools", "asyncio"), ("h11", "asyncio")]
)
def test_only_clients_that_send_nothing_or_a_byte_at_a_time_are_cut(http: str, loop: str) -> None:
    async def go() -> None:
        async with serving(http) as site:
            idle, held = await site.open(), await site.open()
            idle.send(GET)
            await idle.answer()
            held.send(GET.replace(b"/ ", b"/held "))
            await (await site.open()).cut()
            await (await site.open()).cut(GET[:-2] + b"x: " + b"y" * 10_000)
            again = await site.open()
            again.send(GET)
            await again.answer()
            await again.cut(GET[:-2] + b"x: " + b"y" * 10_000)  # its second request
            unread = await site.open()
            unread.send(POST)
            await unread.answer()
            await unread.cut(b"y" * 10_000)  # a body that no request reads
            idle.send(GET)
            assert (await idle.answer()).startswith(b"HTTP/1.1 200")
            site.let_go.set()
            assert (await held.answer()).startswith(b"HTTP/1.1 200")

    in_loop(go(), loop)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_idle_connections_are_cut_where_there_are_many(loop: str) -> None:
    async def go() -> None:
        async with serving(most=5) as site:
            clients = [await site.open() for _ in range(3)]
            for client in clients:
                client.send(GET)
                await client.answer()
            held = await site.open()
            held.send(GET.replace(b"/ ", b"/held "))
            for client in clients:
                await client.cut()
            site.let_go.set()
            assert (await held.answer()).startswith(b"HTTP/1.1 200")

    in_loop(go(), loop)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("fair", [False, True])
def test_one_connection_too_many_is_told_so(fair: bool, loop: str) -> None:
    async def go() -> None:
        async with serving(most=2, fair=fair) as site:
            clients = [await site.open() for _ in range(2)]
            for client in clients:
                client.send(GET.replace(b"/ ", b"/held "))
            third = await site.open()
            third.send(GET)
            head = await third.answer()
            assert head.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in head
            assert await asyncio.wait_for(third.reader.read(), 60) == b""
            site.let_go.set()
            for client in clients:
                assert (await client.answer()).startswith(b"HTTP/1.1 200")
            await clients[1].close()
            while True:  # until uvicorn has seen that it is gone
                late = await site.open()
                late.send(GET)
                if (await late.answer()).startswith(b"HTTP/1.1 200"):
                    break

    in_loop(go(), loop)


def test_other_servers_of_the_loop_are_as_before() -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        ConnectionGuard(SECONDS, 1, loop).watch()
        accepted = asyncio.Semaphore(0)

        def factory() -> asyncio.Protocol:
            accepted.release()
            return asyncio.Protocol()

        server = await loop.create_server(factory, "127.0.0.1", 0)
        for _ in range(2):
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await asyncio.wait_for(accepted.acquire(), 60)
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    in_loop(go())


class Loop:
    """A clock that a test moves."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> None: ...

    def call_soon(self, call: Callable[[], None]) -> None:
        call()


class Leaving:
    """A connection that closes as soon as its client has read what is left."""

    timeout_keep_alive_task = None
    cycle = None

    def __init__(self) -> None:
        self.connections = {self}
        self.left, self.aborted = 1_000_000, False
        self.transport = self

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.aborted = True


def test_who_reads_slowly_is_waited_for_and_who_stops_reading_is_not() -> None:
    loop = Loop()
    guard = ConnectionGuard(10.0, 8, loop)  # type: ignore[arg-type]
    connection = Leaving()
    assert guard.guarded(lambda: connection)() is connection  # type: ignore[comparison-overlap]
    for _ in range(5):
        guard.look()
        loop.now += 9
        connection.left -= 100_000
    assert not connection.aborted
    guard.look()
    loop.now += 9
    connection.left -= 100  # a few bytes now and then are not reading
    guard.look()
    assert not connection.aborted
    loop.now += 1
    guard.look()
    assert connection.aborted


@pytest.mark.parametrize("transports", [1, 2])
def test_the_limit_of_open_files_is_raised_and_shared_out(transports: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert raise_open_files(100, transports) == 100
        limit, same = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert same == hard
        assert limit >= min(transports * 100 + SPARE, hard if hard != resource.RLIM_INFINITY else 1 << 62)
        assert raise_open_files(10, transports) == 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("hard", [64, 1024, 4096, 20_000, 1 << 20])
@pytest.mark.parametrize("transports", [1, 2])
def test_connections_leave_files_for_the_others(
    hard: int, transports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    most = raise_open_files(4096, transports)
    assert 1 <= most <= 4096
    assert transports * most + min(SPARE, hard // 4) <= hard
    if hard >= transports * 4096 + SPARE:
        assert most == 4096


def test_a_kept_connection_ends_with_an_answer_when_it_is_old_or_the_server_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def go() -> None:
        async with serving() as site:
            first, second = await site.open(), await site.open()
            for client in (first, second):
                client.send(GET)
                assert b"connection: close" not in await client.answer()
            monkeypatch.setattr(protocol, "KEPT", 0.0)
            first.send(GET)
            assert b"connection: close" in await first.answer()
            assert await first.reader.read() == b""
            monkeypatch.undo()
            site.leaving = True
            second.send(GET)
            assert b"connection: close" in await second.answer()
            assert await second.reader.read() == b""

    in_loop(go())
