"""The fuzzers' requests: the same for a seed, of bounded length, some honest and most of them not."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from loadtests.fuzz import grpc_fuzz, json_fuzz, multipart_fuzz
from loadtests.fuzz.grpc_fuzz import WRONG
from loadtests.fuzz.wire import wrong_http

GENERATORS: list[Callable[[Random], Any]] = [json_fuzz.generate, multipart_fuzz.generate, grpc_fuzz.generate]


@pytest.mark.parametrize("generate", GENERATORS, ids=["json", "multipart", "grpc"])
def test_a_request_can_be_repeated(generate: Callable[[Random], Any]) -> None:
    first = [generate(Random(f"1:{number}")) for number in range(300)]
    assert first == [generate(Random(f"1:{number}")) for number in range(300)]
    assert len({repr(request) for request in first}) > 200
    assert first != [generate(Random(f"2:{number}")) for number in range(300)]


def test_bodies_are_bounded() -> None:
    for generate in (json_fuzz.generate, multipart_fuzz.generate):
        for number in range(500):
            _, _, headers, body = generate(Random(f"1:{number}"))
            assert len(body) <= 400_000
            assert all("\n" not in value for value in headers.values())
    for number in range(500):
        _, _, _, messages = grpc_fuzz.generate(Random(f"1:{number}"))
        assert sum(map(len, messages)) <= 2_000_000


def test_some_json_is_whole_and_some_is_not() -> None:
    whole = 0
    for number in range(500):
        *_, body = json_fuzz.generate(Random(f"1:{number}"))
        try:
            json.loads(body)
            whole += 1
        except ValueError:
            continue
    assert 100 < whole < 450


def test_what_is_wrong() -> None:
    assert [
        status for status in ("200", "422", "500", "503", "504", "502", "closed") if wrong_http(status)
    ] == [
        "500",
        "502",
        "closed",
    ]
    assert "INTERNAL" in WRONG
    assert "INVALID_ARGUMENT" not in WRONG
