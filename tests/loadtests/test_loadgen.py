"""The load generator against a small server that answers as each test wants, byte for byte."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtests.loadgen import Load, build, run

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Batch-Size: 3\r\n\r\nok"


class Server:
    """Reads whole requests and writes what `answer(head, body, number)` gives; None closes the connection.

    A list of pieces is written piece by piece, each in a packet of its own.
    """

    def __init__(self, answer: Callable[[str, bytes, int], bytes | list[bytes] | None]) -> None:
        self.answer = answer
        self.requests: list[tuple[str, bytes]] = []
        self.connections = 0
        self.address = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:-1])
                body = await reader.readexactly(int(fields.get("Content-Length", 0)))
                self.requests.append((head, body))
                pieces = self.answer(head, body, len(self.requests))
                if pieces is None:
                    break
                for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                    writer.write(piece)
                    await writer.drain()
                    if not isinstance(pieces, bytes):
                        await asyncio.sleep(0.002)
                if b"close" in b"".join(pieces if isinstance(pieces, list) else [pieces]):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            await asyncio.sleep(0.01)  # lets the handlers see that the generator has hung up


def load(server: Server, bodies: tuple[Path, ...] = (), **options: Any) -> Load:
    async def main() -> Load:
        async with server.listening() as address:
            server.address = address
            given = {"seconds": 20.0} | options
            return await asyncio.to_thread(run, address, "/path?q=1", bodies, **given)

    return asyncio.run(main())


def test_sends_the_bodies_in_turn_and_counts_the_answers(tmp_path: Path) -> None:
    files = (tmp_path / "a", tmp_path / "b")
    files[0].write_bytes(b"a" * 10)
    files[1].write_bytes(b"\0b" * 300_000)  # larger than a socket's buffer
    server = Server(lambda head, body, number: OK)
    result = load(server, files, requests=7, content_type="image/png", headers={"X-Extra": "yes"})
    assert (result.requests, result.ok, result.errors, result.reconnects) == (7, 7, {}, 0)
    assert (result.batch_sizes, result.mean_batch, result.bytes) == ({3: 7}, 3.0, 7 * len(OK))
    assert server.connections == 1, "the connection is kept"
    assert [body[:2] for _, body in server.requests] == [b"aa", b"\0b", b"aa", b"\0b", b"aa", b"\0b", b"aa"]
    head, body = server.requests[1]
    assert body == files[1].read_bytes()
    for line in (
        "POST /path?q=1 HTTP/1.1",
        f"Host: {server.address}",
        "Content-Type: image/png",
        "X-Extra: yes",
    ):
        assert line in head.splitlines()
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms <= result.max_ms < 20_000
    assert result.rps == pytest.approx(7 / result.seconds, rel=0.05)


def test_gets_without_a_body() -> None:
    server = Server(lambda head, body, number: OK)
    assert load(server, requests=1).ok == 1
    assert server.requests[0][0].startswith("GET /path?q=1 HTTP/1.1\r\n")
    assert "Content-" not in server.requests[0][0]


def test_keeps_as_many_requests_under_way_as_it_has_connections() -> None:
    server = Server(lambda head, body, number: [b"HTTP/1.1 200 OK\r\n", b"Content-Length: 0\r\n", b"\r\n"])
    result = load(server, requests=40, connections=8)
    assert (result.ok, server.connections) == (40, 8)


def test_ends_in_time_and_measures_only_after_the_warm_up() -> None:
    server = Server(lambda head, body, number: OK)
    result = load(server, seconds=0.2, warmup=0.2, connections=2)
    assert 0.2 <= result.seconds < 2
    assert 0 < result.ok < len(server.requests)
    assert result.cpu_seconds < result.seconds


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"5\r\nhello\r\n10\r\n0123456789\r\n0000\r\n0\r\n\r\n",
        CHUNKED + b"5;name=value\r\nhello\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n",
        [CHUNKED[:20], CHUNKED[20:] + b"A", b"\r", b"\n01234", b"56789\r", b"\n0\r\n", b"\r", b"\n"],
        [bytes([byte]) for byte in OK],
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\ncontent-LENGTH:2\r\n\r\nok",
    ],
)
def test_understands_each_way_to_end_an_answer(answer: bytes | list[bytes]) -> None:
    server = Server(lambda head, body, number: answer)
    result = load(server, requests=3)
    assert (result.ok, result.errors, server.connections) == (3, {}, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the close",
        b"HTTP/1.0 200 OK\r\nX-Reason: close\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_connects_again_where_the_server_closes(answer: bytes) -> None:
    server = Server(lambda head, body, number: answer)
    result = load(server, requests=5, connections=2)
    assert (result.ok, result.errors) == (5, {})
    assert server.connections in (5, 6)  # the second may have dialled when the last request went out


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"123456789abc\r\n",
        CHUNKED + b"1\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000,
        b"HTTP/1.1 999 No\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_http_is_a_protocol_error(answer: bytes) -> None:
    result = load(Server(lambda head, body, number: answer), requests=2)
    assert (result.ok, result.errors) == (0, {"protocol": 2})


def test_counts_errors_by_status_and_leaves_them_out_of_the_latencies() -> None:
    slow = b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n"
    server = Server(lambda head, body, number: slow if number % 3 == 0 else OK)
    result = load(server, requests=9)
    assert (result.requests, result.ok, result.errors) == (9, 6, {"429": 3})
    assert sum(result.batch_sizes.values()) == 6


def test_a_connection_lost_during_an_answer_is_an_error() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\nX: close\r\n\r\nhalf"
    result = load(Server(lambda head, body, number: half), requests=2)
    assert (result.ok, result.errors) == (0, {"closed": 2})


def test_a_connection_closed_while_idle_costs_no_request() -> None:
    server = Server(lambda head, body, number: None if number == 3 else OK)
    result = load(server, requests=5)
    assert (result.ok, result.errors, result.reconnects, server.connections) == (5, {}, 1, 2)


def test_a_server_that_always_closes_at_once_ends_in_errors() -> None:
    result = load(Server(lambda head, body, number: None), requests=3)
    assert (result.ok, result.errors) == (0, {"closed": 3})


def test_a_slow_answer_times_out() -> None:
    result = load(Server(lambda head, body, number: b""), requests=2, connections=2, timeout=0.05)
    assert (result.ok, result.errors) == (0, {"timeout": 2})


def test_a_closed_port_is_one_error_for_each_connection() -> None:
    result = run("127.0.0.1:1", "/", seconds=0.2)
    assert result.ok == 0
    assert 1 <= result.errors["connect"] <= 12


@pytest.mark.parametrize(
    "arguments",
    [
        ["192.0.2.1:80", "/"],
        ["example.org:80", "/"],
        ["127.0.0.1", "/"],
        ["127.0.0.1:99999", "/"],
        ["127.0.0.1:80"],
        ["-c", "0", "127.0.0.1:80", "/"],
        ["-s", "x", "127.0.0.1:80", "/"],
        ["-n", "5", "-w", "1", "127.0.0.1:80", "/"],
        ["-H", "a: b\r\nc: d", "127.0.0.1:80", "/"],
        ["127.0.0.1:80", "/", "no such file"],
    ],
)
def test_refuses_other_machines_and_nonsense(arguments: list[str]) -> None:
    result = subprocess.run([build(), *arguments], capture_output=True, text=True, check=False, timeout=10)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("loadgen: ")


def test_is_built_once(tmp_path: Path) -> None:
    first = build(tmp_path)
    stamp = first.stat().st_mtime_ns
    assert build(tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert list(tmp_path.iterdir()) == [first]
