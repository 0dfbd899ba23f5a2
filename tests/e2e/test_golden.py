"""The public API answers as it did when the golden answers were recorded; see `tests.golden`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden.compare import differences
from tests.golden.record import GROUPS, KEYS_SETTINGS, load, record, record_keys
from tests.server import Server

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def found(server: Server) -> dict[str, dict[str, Any]]:
    return record(server.url, server.grpc_address)


@pytest.fixture(scope="module")
def keys_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("keys")
    server = Server(folder / "log", **KEYS_SETTINGS)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def check(group: str, answers: dict[str, Any]) -> None:
    golden = load(group)
    assert golden
    assert not set(answers) - set(golden), "requests whose answers were never recorded"
    wrong = [line for name in answers for line in differences(golden[name], answers[name], name)]
    assert not wrong, f"{len(wrong)} differences:\n" + "\n".join(wrong[:100])


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "keys"])
def test_answers_are_as_recorded(found: dict[str, dict[str, Any]], group: str) -> None:
    check(group, found[group])


def test_answers_of_a_server_with_keys_are_as_recorded(keys_server: Server) -> None:
    check("keys", record_keys(keys_server.url, keys_server.grpc_address))
