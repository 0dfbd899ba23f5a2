"""The documentation's Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.server import Server

pytestmark = pytest.mark.e2e
PAGE = ROOT / "docs" / "clients.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SHOWS = ["German shepherd", "succeeded 2", "INVALID_ARGUMENT media_type", "German shepherd"]


CASES = list(zip(BLOCKS, SHOWS, strict=True))


@pytest.mark.parametrize(("block", "shows"), CASES, ids=["httpx", "job", "grpc", "aio"])
def test_clients(
    server: Server, dog: bytes, block: str, shows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"HTTP_URL": server.url, "GRPC_ADDRESS": server.grpc_address, "IMAGE": dog}
    exec(compile(block, Path(PAGE).name, "exec"), {"__name__": "client", **given})  # noqa: S102 (our own page)
    assert shows in capsys.readouterr().out


def test_pages_name_files_that_are_there() -> None:
    for page in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "loadtests" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
