"""What the service tells of itself, without wording: OpenAPI, gRPC's reflection, the names of metrics."""

from __future__ import annotations

from typing import Any

import httpx

from tests.golden.answers import Json
from tests.golden.rpc import Client

KEYWORDS = (
    "type",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "default",
    "format",
    "anyOf",
    "items",
    "const",
)


def openapi(client: httpx.Client) -> Json:
    """Every operation with its parameters, the bodies that it takes and the answers that it gives."""
    document = client.get("/openapi.json").json()
    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = {
                f"{one['in']} {one['name']}": {
                    "required": one.get("required", False),
                    "schema": _schema(document, one["schema"]),
                }
                for one in operation.get("parameters", ())
            }
            body = operation.get("requestBody", {})
            answers = {
                status: sorted(answer.get("content", ())) for status, answer in operation["responses"].items()
            }
            found[f"{method} {path}"] = {
                "parameters": parameters,
                "body": {"required": body.get("required", False), "types": _set(body.get("content", ()))},
                "answers": {status: _set(kinds) for status, kinds in answers.items()},
            }
    return found


def reflection(client: Client) -> Json:
    """Every service, and the methods and messages of ours."""
    services = client.services()
    ours = [name for name in services if name.startswith(("lynceus.", "inference."))]
    return {"services": _set(services), **{name: client.described(name) for name in ours}}


def metrics(client: httpx.Client) -> Json:
    """The names and types of the service's own metrics."""
    found = {}
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("# TYPE lynceus_"):
            name, kind = line.split()[2:4]
            found[name] = kind
    return found


def _schema(document: Any, schema: Any) -> Json:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    found: dict[str, Json] = {}
    for key in KEYWORDS:
        if key in schema:
            value = schema[key]
            if key == "anyOf":
                value = [_schema(document, one) for one in value]
            elif key == "items":
                value = _schema(document, value)
            found[key] = value
    return found


def _set(names: Any) -> dict[str, bool]:
    """As keys, so that there may be more of them later."""
    return dict.fromkeys(sorted(names), True)
