"""The load generator's gRPC against gRPC's own server: messages whole, windows kept, errors counted."""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadtests.loadgen import run

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
METHOD = "/test.Service/Method"


@contextmanager
def serving(answer: Callable[[bytes, Any], bytes], **options: int) -> Iterator[str]:
    """A server whose only method answers raw messages; its address."""
    server = grpc.server(
        ThreadPoolExecutor(4), options=[(f"grpc.{key}", value) for key, value in options.items()]
    )
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Service", {"Method": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def files(folder: Path, *sizes: int) -> list[Path]:
    paths = []
    for size in sizes:
        paths.append(folder / str(size))
        paths[-1].write_bytes(random.Random(size).randbytes(size))
    return paths


def test_messages_of_every_size_arrive_whole(tmp_path: Path) -> None:
    # around a frame, around the windows' 65,535 bytes, and far beyond them
    bodies = files(tmp_path, 0, 1, 16378, 16379, 16380, 65530, 65531, 200_000, 3_000_000)
    seen: Counter[bytes] = Counter()

    def answer(message: bytes, _: Any) -> bytes:
        seen[message] += 1
        return b"x" * (len(message) % 30_000)

    with serving(answer) as address:
        load = run(address, METHOD, bodies, requests=90, seconds=60, connections=5, grpc=True)
    assert (load.requests, load.ok, load.errors) == (90, 90, {})
    assert seen == Counter({body.read_bytes(): 10 for body in bodies})


def test_large_answers_are_let_through(tmp_path: Path) -> None:
    with serving(lambda message, _: bytes(1_000_000)) as address:
        load = run(address, METHOD, files(tmp_path, 10), requests=20, seconds=60, connections=2, grpc=True)
    assert (load.ok, load.errors) == (20, {})
    assert load.bytes > 20_000_000


def test_a_status_without_a_message_is_an_error(tmp_path: Path) -> None:
    count = iter(range(1000))

    def answer(message: bytes, context: Any) -> bytes:
        if next(count) % 4 == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return b"fine"

    with serving(answer) as address:
        load = run(address, METHOD, files(tmp_path, 100), requests=40, seconds=60, grpc=True)
    assert (load.requests, load.ok, load.errors) == (40, 30, {"500": 10})


def test_a_method_that_is_not_there(tmp_path: Path) -> None:
    with serving(lambda message, _: message) as address:
        load = run(address, "/test.Service/Other", files(tmp_path, 10), requests=5, seconds=60, grpc=True)
    assert load.errors == {"500": 5}


def test_a_connection_that_the_server_ends_is_made_anew(tmp_path: Path) -> None:
    with serving(
        lambda message, _: b"fine", max_connection_age_ms=200, max_connection_age_grace_ms=50
    ) as address:
        load = run(address, METHOD, files(tmp_path, 1000), seconds=1, connections=2, grpc=True)
    assert load.ok > 0
    assert not set(load.errors) - {"closed"}, load.errors


def test_what_is_no_grpc_is_an_error(tmp_path: Path) -> None:
    class Silent(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        load = run(address, METHOD, files(tmp_path, 10), seconds=0.3, grpc=True)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert load.ok == 0
    assert set(load.errors) <= {"protocol", "closed"}
    assert load.errors
