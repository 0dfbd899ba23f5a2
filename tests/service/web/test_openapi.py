"""The OpenAPI document: every route with what it takes, what it gives, what can go wrong, and examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from pydantic import TypeAdapter

from service.errors import INTERNAL, TABLE
from service.web.app import ROUTES as ALL
from service.web.openapi import ProblemAnswer, document
from service.web.route import Route

ROUTES = [route for route in ALL if route.tag]


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return document(ALL)


def operations(api: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in api["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_every_route_is_there(api: dict[str, Any]) -> None:
    assert {(route.path, route.method.lower()) for route in ROUTES} == {
        (path, method) for path, methods in api["paths"].items() for method in methods
    }


def test_every_route_and_parameter_is_described(api: dict[str, Any]) -> None:
    for path, operation in operations(api):
        assert operation["description"], path
        assert operation["tags"], path
        for parameter in operation["parameters"]:
            assert parameter.get("description"), (path, parameter["name"])
        for status, answer in operation["responses"].items():
            assert answer["description"], (path, status)
            assert "X-Request-ID" in answer["headers"], (path, status)


def test_operations_have_names_of_their_own(api: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(api)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_json_answer_has_an_example_that_fits_its_schema(api: dict[str, Any], route: Route) -> None:
    good = api["paths"][route.path][route.method.lower()]["responses"][str(route.status)]
    if "application/json" not in good["content"]:
        assert good["content"]
        return
    example = good["content"]["application/json"]["example"]
    match route.answer:
        case FieldDescriptor():  # a list of messages
            for one in example:
                ParseDict(one, GetMessageClass(route.answer.message_type)())
        case Descriptor():
            ParseDict(example, GetMessageClass(route.answer)())
        case _:
            TypeAdapter(route.answer).validate_python(example)


def test_every_error_has_an_example_that_is_one(api: dict[str, Any]) -> None:
    kinds = {kind.code: kind for kind in (*TABLE.values(), INTERNAL)}
    shown = set()
    for path, operation in operations(api):
        for status, answer in operation["responses"].items():
            if status.startswith("2"):
                continue
            for kind, body in answer["content"].items():
                for code, example in body["examples"].items():
                    shown.add(code)
                    assert kinds[code].http == int(status)
                    if path.startswith("/v2"):
                        assert (kind, list(example["value"])) == ("application/json", ["error"])
                    else:
                        assert kind == "application/problem+json"
                        assert ProblemAnswer.model_validate(example["value"]).code == code
            assert ("Retry-After" in answer["headers"]) == (status in ("429", "503"))
    # no route gives these: they are of routes that are not there
    assert set(kinds) - shown == {"not_found", "method_not_allowed"}


def test_a_body_is_required_where_there_is_one(api: dict[str, Any]) -> None:
    for path, operation in operations(api):
        if "requestBody" in operation:
            assert operation["requestBody"]["content"], path


def test_references_lead_somewhere(api: dict[str, Any]) -> None:
    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    schemas = api["components"]["schemas"]
    for reference in walk(api):
        assert reference.startswith("#/components/schemas/"), reference
        assert reference.rpartition("/")[2] in schemas, reference
