"""One server for all end-to-end tests, with small limits so that they can be met."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.golden.record import SETTINGS
from tests.paths import SHARED
from tests.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "log", **SETTINGS)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def dog() -> bytes:
    path = SHARED / "data" / "photos" / "dog.jpg"
    if not path.exists():
        pytest.skip("the shared data folder is not beside the checkout")
    return path.read_bytes()
