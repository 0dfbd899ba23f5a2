"""What the comparison with golden answers lets pass and what not; and that every parameter is asked for."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from tests.golden import http_cases
from tests.golden.compare import differences
from tests.golden.record import GROUPS, load

DARK, GREY = (base64.b64encode(bytes([value] * 300)).decode() for value in (40, 60))


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"status": 200, "score": 0.5}, {"status": 200, "score": 0.501, "more": 1}),
        ({"detail": "one text"}, {"detail": "another"}),
        ({"box": [10.2, 500.0]}, {"box": [10.4, 500.6]}),
        ({"data": ["0.41:235:dog"]}, {"data": ["0.411:235:dog"]}),
        ({"pixels": DARK}, {"pixels": base64.b64encode(bytes([42] * 300)).decode()}),
        ({"value": 1.0}, {"value": 1}),
        (
            {"outputs": [{"name": "a", "shape": [1]}]},
            {"outputs": [{"name": "b"}, {"name": "a", "shape": [1]}]},
        ),
    ],
)
def test_what_is_alike(expected: Any, actual: Any) -> None:
    assert list(differences(expected, actual)) == []


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"status": 200}, {"status": 201}),
        ({"index": 900}, {"index": 901}),
        ({"score": 0.5}, {"score": 0.51}),
        ({"score": 0.5}, {}),
        ({"labels": [1, 2]}, {"labels": [1]}),
        ({"detail": "text"}, {"detail": ""}),
        ({"data": ["0.41:235:dog"]}, {"data": ["0.41:236:dog"]}),
        ({"code": "not_found"}, {"code": "internal"}),
        ({"pixels": DARK}, {"pixels": GREY}),
        ({"verified": True}, {"verified": 1}),
        ({"image": {}}, {"image": []}),
        ({"outputs": [{"name": "a", "shape": [1]}]}, {"outputs": [{"name": "b", "shape": [1]}]}),
        ({"outputs": [{"name": "a", "data": [1]}]}, {"outputs": [{"name": "a", "data": [1]}, {"name": "b"}]}),
    ],
)
def test_what_is_not(expected: Any, actual: Any) -> None:
    assert list(differences(expected, actual))


def test_every_query_parameter_has_a_request() -> None:
    asked = {
        (f"{case.method} {case.path}", name) for case in http_cases.all_cases() for name, _ in case.params
    }
    for operation, told in load("documents")["openapi"].items():
        method, _, path = operation.partition(" ")
        route = re.compile(f"{method.upper()} {re.sub(r'{[^}]*}', '[^/]+', path)}")
        for parameter in told["parameters"]:
            place, _, name = parameter.partition(" ")
            if place == "query" and "." not in name:  # a group's are those of another task
                assert any(key == name and route.fullmatch(to) for to, key in asked), f"{operation} {name}"


def test_every_group_is_recorded() -> None:
    for group in GROUPS:
        assert load(group), group
