"""The pages: who gets them, what they may load, what they are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from service.web.pages import CSP, FOLDER
from tests.service.transports import Transports, open_transports, pipeline

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
OURS = [
    path
    for path in FOLDER.iterdir()
    if path.suffix in (".html", ".css", ".js") and "swagger" not in path.name
]


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("lenet5")], api_keys="secret") as transports:
        yield transports


def test_a_browser_gets_the_page_and_others_a_pointer(transports: Transports) -> None:
    page = transports.http("GET", "/", headers={"Accept": BROWSER})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"] == CSP
    for accept in ("*/*", "application/json", ""):
        pointer = transports.http("GET", "/", headers={"Accept": accept})
        assert pointer.headers["content-type"] == "application/json"
        assert pointer.headers["vary"] == "Accept"
        places = pointer.json()
        assert {transports.http("GET", places[name]).status_code for name in ("docs", "openapi")} == {200}


def test_the_page_can_be_switched_off() -> None:
    with open_transports([pipeline("lenet5")], ui=False) as transports:
        answer = transports.http("GET", "/", headers={"Accept": BROWSER})
        assert answer.headers["content-type"] == "application/json"


def test_files_have_tags(transports: Transports) -> None:
    first = transports.http("GET", "/ui/page.js")
    assert first.status_code == 200
    assert first.headers["content-type"].startswith("text/javascript")
    again = transports.http("GET", "/ui/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "README.md", "..%2Fpage.py", "%2e%2e"])
def test_nothing_else_is_a_file(transports: Transports, name: str) -> None:
    answer = transports.http("GET", f"/ui/{name}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


def test_every_file_that_the_pages_name_is_there() -> None:
    for path in OURS:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'(?:"ui/|"\./)([\w.-]+\.\w+)"', text):
            assert (FOLDER / name).is_file(), (path.name, name)


def test_the_pages_name_no_other_host_and_have_no_inline_script() -> None:
    assert "unsafe" not in CSP
    for path in OURS:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path.name
        assert not re.search(
            r"<script(?![^>]*\bsrc=)|\bon\w+=|style=\"|innerHTML|insertAdjacentHTML", text
        ), path.name
