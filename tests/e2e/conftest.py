"""One server for all end-to-end tests that only ask, with small limits so that they can be met."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright
from xdist.scheduler import LoadScopeScheduling

from tests.golden.record import SETTINGS
from tests.paths import SHARED
from tests.server import Server

OWN = {
    "bento",
    "device_process",
    "fault_run",
    "faults",
    "gpu_report",
    "hostile",
    "jobs",
    "life",
    "own_models",
    "queued_jobs",
    "slow_clients",
    "worker_deaths",
}
"""The files whose tests have servers of their own, and none of the others' server below."""


class OneOfServer(LoadScopeScheduling):
    """For `pytest -n`: of `OWN` a file is what a process takes at once; all the rest is one.

    So the server below starts once, and no other process fills its queues or changes its counts.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0]).stem.removeprefix("test_")
        return file if file in OWN else "server"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneOfServer:
    return OneOfServer(config, log)


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
