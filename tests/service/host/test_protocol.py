"""Connections that send too much before a request is one, shut their sending side, or read no answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.host.connections import ConnectionGuard
from service.host.protocol import CHUNKS, HEAD_BYTES, PIPELINED
from tests.service.host.test_connections import in_loop

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


class Site:
    """uvicorn in this loop, watched. The answer is the body's length; `/held` gives it when it is let go."""

    def __init__(self, seconds: float = 60.0) -> None:
        loop = asyncio.get_running_loop()
        ConnectionGuard(seconds, 8, loop).watch()
        self.let_go = asyncio.Event()
        self.held = asyncio.Semaphore(0)
        self.left = asyncio.Event()
        self.answered = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            self._app, http="httptools", interface="asgi3", lifespan="off", log_config=None, ws="none"
        )
        self.server = uvicorn.Server(config)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"] == "/held":
            self.held.release()
            waiting = asyncio.ensure_future(self.let_go.wait())
            gone = asyncio.ensure_future(receive())
            done, _ = await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            gone.cancel()
            if gone in done:
                self.left.set()
                return
        body = bytes(8_000_000) if scope["path"] == "/large" else b"%d" % length
        self.answered += 1
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.listener.getsockname())


@asynccontextmanager
async def serving(seconds: float = 60.0) -> AsyncIterator[Site]:
    site = Site(seconds)
    running = asyncio.create_task(site.server.serve(sockets=[site.listener]))
    try:
        yield site
    finally:
        site.let_go.set()
        site.server.should_exit = True
        site.server.force_exit = True
        await running


async def answer_to(site: Site, *parts: bytes, shut: bool = False) -> bytes:
    """All that a new connection is sent for this, until the server closes it."""
    reader, writer = await site.open()
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if shut:
            writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def head(size: int, *, path: bytes = b"/", close: bytes = b"connection: close\r\n") -> bytes:
    """A request whose line and headers have so many bytes."""
    start = b"GET " + path + b" HTTP/1.1\r\nhost: a\r\n" + close + b"x: "
    return start + b"y" * (size - len(start) - 4) + b"\r\n\r\n"


@LOOPS
@pytest.mark.parametrize(("size", "answered"), [(1, False), (63, False), (64, True)])
def test_a_body_of_very_many_tiny_chunks_is_refused(size: int, answered: bool, loop: str) -> None:
    many = CHUNKS + 1000
    chunks = (b"%x\r\n" % size + b"x" * size + b"\r\n") * many
    start = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"

    async def go() -> None:
        async with serving() as site:
            body = chunks + b"0\r\n\r\n"
            parts = [body[i : i + 60_000] for i in range(0, len(body), 60_000)]
            answer = await answer_to(site, start, *parts)
            if answered:
                assert answer.endswith(b"\r\n\r\n%d" % (size * many))
            else:
                assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
            assert site.answered == answered
            assert site.connections == 0

    in_loop(go(), loop)


@LOOPS
@pytest.mark.parametrize(
    "request_",
    [
        head(HEAD_BYTES + 1),
        head(HEAD_BYTES + 8)[:-4],
        head(1_000_000),
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /?" + b"a=1&" * 10_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a:\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"n" * 50_000 + b": 1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncookie: " + b"c" * 40_000 + b"\r\ncontent-length: 1\r\n\r\nx",
    ],
)
def test_headers_that_are_too_large_are_431(request_: bytes, loop: str) -> None:
    async def go() -> None:
        async with serving() as site:
            for parts in ([request_], [request_[i : i + 1500] for i in range(0, len(request_), 1500)]):
                answer = await answer_to(site, *parts)
                assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
                assert b"connection: close" in answer
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "header_too_large"
            assert site.answered == 0
            assert site.connections == 0

    in_loop(go(), loop)


@LOOPS
def test_headers_as_large_as_may_be_are_read_in_one_piece_or_in_many(loop: str) -> None:
    async def go() -> None:
        async with serving() as site:
            request = head(HEAD_BYTES)
            pieces = [request[i : i + 700] for i in range(0, len(request), 700)]
            for parts in ([request], pieces):
                assert (await answer_to(site, *parts)).startswith(b"HTTP/1.1 200")
            one = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000)
            again = head(HEAD_BYTES, close=b"")
            answer = await answer_to(site, one, again, again, one, head(100))
            assert answer.count(b"HTTP/1.1 200") == 5  # of one connection, each within its own bound
            assert answer.count(b"\r\n\r\n300000") == 2

    in_loop(go(), loop)


@LOOPS
@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_chunked_bodies_are_read_and_their_trailers_bounded(size: int, loop: str) -> None:
    async def go() -> None:
        async with serving() as site:
            start = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            chunks = [b"%x\r\n%b\r\n" % (size, bytes(size))] * (100_000 // size + 1)
            short = b"0\r\nchecksum: 1\r\n\r\n"
            answer = await answer_to(site, start, b"".join(chunks), short)
            assert answer.endswith(b"\r\n\r\n%d" % (size * len(chunks)))
            for trailers in ([b"x: y\r\n" * 100_000], [b"x: " + b"y" * 60_000] * 8):
                assert await answer_to(site, start, chunks[0], b"0\r\n", *trailers) == b""
            assert await answer_to(site, start, *[b"1;" + b"e" * 60_000] * 8) == b""

    in_loop(go(), loop)


@LOOPS
def test_requests_one_behind_the_other_are_answered_in_order_and_bounded(loop: str) -> None:
    async def go() -> None:
        async with serving() as site:
            reader, writer = await site.open()
            writer.write(GET * PIPELINED)
            for _ in range(PIPELINED):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await reader.readexactly(1) == b"0"
            writer.close()
            many = GET.replace(b"/ ", b"/held ") + GET * 10 * PIPELINED
            assert await answer_to(site, many) == b""
            assert site.answered == PIPELINED

    in_loop(go(), loop)


@LOOPS
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("path", [b"/", b"/held"])
def test_a_client_that_shuts_its_sending_side_gets_its_answer(path: bytes, version: bytes, loop: str) -> None:
    async def go() -> None:
        async with serving() as site:
            post = b"POST %b HTTP/%b\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345" % (path, version)
            asking = asyncio.create_task(answer_to(site, post, shut=True))
            if path == b"/held":
                await site.held.acquire()
                await asyncio.sleep(0.2)
                assert not asking.done()
                site.let_go.set()
            answer = await asking
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.count(b"HTTP/1.1") == 1
            assert answer.endswith(b"\r\n\r\n5")

    in_loop(go(), loop)


@LOOPS
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_closes_its_connection_is_noticed(reset: bool, loop: str) -> None:
    async def go() -> None:
        async with serving() as site:
            _, writer = await site.open()
            writer.write(b"POST /held HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345")
            await site.held.acquire()
            if reset:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            await asyncio.wait_for(site.left.wait(), 60)

    in_loop(go(), loop)


@LOOPS
@pytest.mark.parametrize("sent", [b"", GET, b"GET / HT", b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n1234"])
def test_a_connection_that_ends_between_or_within_requests_is_closed(sent: bytes, loop: str) -> None:
    async def go() -> None:
        async with serving() as site:
            reader, writer = await site.open()
            writer.write(sent)
            if sent == GET:
                await reader.readuntil(b"\r\n\r\n0")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()

    in_loop(go(), loop)


@LOOPS
def test_an_answer_that_is_not_read_is_given_up(loop: str) -> None:
    async def go() -> None:
        async with serving(0.5) as site:
            quiet = socket.socket()
            quiet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            quiet.setblocking(False)
            await asyncio.get_running_loop().sock_connect(quiet, site.listener.getsockname())
            quiet.send(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
            while not site.answered or site.connections:  # noqa: ASYNC110 (uvicorn has no event for it)
                await asyncio.sleep(0.02)
            quiet.close()
            reader, writer = await site.open()
            writer.write(b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            length = 0
            while part := await reader.read(500_000):  # in its own time, but steadily
                length += len(part)
                await asyncio.sleep(0.05)
            assert length > 8_000_000
            writer.close()

    in_loop(go(), loop)


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@LOOPS
@pytest.mark.parametrize("step", [1, 7, 50, 1000])
@pytest.mark.parametrize(
    ("framing", "body", "length"),
    [
        (b"content-length: 300\r\n", b"x" * 300, b"300"),
        (
            b"transfer-encoding: chunked\r\n",
            b"96\r\n" + b"x" * 150 + b"\r\n" + b"1\r\nx\r\n0\r\n\r\n",
            b"151",
        ),
        (b"content-length: 0\r\n", b"", b"0"),
        (b"", b"", b"0"),
    ],
)
def test_an_offer_to_upgrade_is_ignored(
    framing: bytes, body: bytes, length: bytes, step: int, loop: str
) -> None:
    """The request is answered over HTTP/1.1, its body is read, and the next request on the connection too."""
    last = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\n\r\nafter"
    sent = b"POST / HTTP/1.1\r\nhost: a\r\n" + OFFER + framing + b"\r\n" + body + last

    async def go() -> None:
        async with serving() as site:
            parts = [sent[at : at + step] for at in range(0, len(sent), step)]
            answer = await answer_to(site, *parts)
            statuses, bodies = answer.count(b"HTTP/1.1 200"), answer.split(b"\r\n\r\n")[1:]
            assert statuses == 2, answer
            assert bodies[0].startswith(length)
            assert bodies[1] == b"5"

    in_loop(go(), loop)
