"""Pages of other origins: refused by every browser unless the settings name them."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.service.transports import Transports, open_transports, pipeline

PAGE = "https://shop.example"
PNG = bytes(cv2.imencode(".png", np.zeros((28, 28, 3), np.uint8))[1])
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,x-api-key,x-timeout-ms",
}


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports(
        [pipeline("lenet5")], cors_origins=f"{PAGE},http://localhost:8080", api_keys="one"
    ) as transports:
        yield transports


def allowed(answer: httpx.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


def test_it_is_off_unless_wanted() -> None:
    with open_transports([pipeline("lenet5")]) as transports:
        preflight = transports.http("OPTIONS", "/v1/classify", headers=PREFLIGHT)
        assert (preflight.status_code, allowed(preflight)) == (405, None)
        answer = transports.http("POST", "/v1/classify", content=PNG, headers={"origin": PAGE})
        assert (answer.status_code, allowed(answer)) == (200, None)


def test_a_preflight_needs_no_key(transports: Transports) -> None:
    answer = transports.http("OPTIONS", "/v1/classify", headers=PREFLIGHT)
    assert (answer.status_code, allowed(answer)) == (200, PAGE)
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-timeout-ms" in answer.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("name", "value"), [("origin", "https://other.example"), ("access-control-request-method", "PATCH")]
)
def test_a_preflight_that_is_refused(transports: Transports, name: str, value: str) -> None:
    assert transports.http("OPTIONS", "/v1/classify", headers=PREFLIGHT | {name: value}).status_code == 400


def test_a_page_reads_the_answer_its_timing_and_an_error(transports: Transports) -> None:
    headers = {"origin": PAGE, "x-api-key": "one"}
    answer = transports.http("POST", "/v1/classify?top_k=1", content=PNG, headers=headers)
    assert (answer.status_code, allowed(answer), answer.headers["vary"]) == (200, PAGE, "Origin")
    assert "server-timing" in answer.headers["access-control-expose-headers"].lower()
    refused = transports.http("POST", "/v1/classify", content=PNG, headers={"origin": PAGE})
    assert (refused.status_code, allowed(refused)) == (401, PAGE)
    assert refused.json()["code"] == "unauthenticated"


def test_another_page_may_not_read_it(transports: Transports) -> None:
    headers = {"origin": "https://other.example", "x-api-key": "one"}
    assert allowed(transports.http("POST", "/v1/classify", content=PNG, headers=headers)) is None


@pytest.mark.parametrize(
    "origin", ["https://shop.example/", "shop.example", "null", "https://*.example", "*,a"]
)
def test_what_is_no_origin_ends_the_start(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("LYNCEUS_CORS_ORIGINS", origin)
    with pytest.raises(ValidationError, match="is no origin"):
        Settings()


def test_every_page_may_ask_where_the_setting_says_so() -> None:
    with open_transports([pipeline("lenet5")], cors_origins="*") as transports:
        answer = transports.http("POST", "/v1/classify?top_k=1", content=PNG, headers={"origin": PAGE})
        assert (answer.status_code, allowed(answer)) == (200, "*")
