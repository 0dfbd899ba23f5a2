"""The API's own document: FastAPI's, completed with what it cannot know.

Which errors a route gives, with an example of each from the one table; the headers that go both ways; the
keys; the pictures that some routes answer; an example of every answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from models.errors import (
    FaceNotFound,
    FacesMany,
    ImageInvalid,
    ImageTooLarge,
    MediaTypeUnsupported,
    ModelUnknown,
    ParameterInvalid,
    StyleUnknown,
)
from service.errors import (
    INTERNAL,
    TABLE,
    DeadlineExceeded,
    HeaderTooLarge,
    JobFinished,
    JobUnfinished,
    JobUnknown,
    KeyBusy,
    Kind,
    NotReady,
    OutOfMemory,
    Overloaded,
    Problem,
    RequestTimeout,
    StorageFailed,
    Unauthenticated,
)
from service.web.examples import ANSWERS, PICTURES
from service.web.schemas import CompareIn, ProblemOut
from service.web.v2_schemas import ErrorOut, InferIn

Node = dict[str, Any]

ANY = (HeaderTooLarge, Unauthenticated, KeyBusy)
NAMED = (ModelUnknown, *ANY)
BUSY = (Overloaded, NotReady, OutOfMemory, DeadlineExceeded)
IMAGE = (
    ImageInvalid,
    ImageTooLarge,
    MediaTypeUnsupported,
    ParameterInvalid,
    RequestTimeout,
    *NAMED,
    *BUSY,
)
FACE = (*IMAGE, FaceNotFound, FacesMany)
BODY = (ImageTooLarge, MediaTypeUnsupported, ParameterInvalid, RequestTimeout, OutOfMemory, *NAMED)
JOB = (JobUnknown, StorageFailed, *ANY)
SUBMIT = "/v1/stylize/jobs"
BY_PATH = {
    "/v1/faces/verify": FACE,
    "/v1/faces/compare": BODY,
    "/v1/stylize": (*IMAGE, StyleUnknown),
    "/v1/stylize/jobs": (*IMAGE, StorageFailed),
    "/v1/jobs/{id}": JOB,
    "delete /v1/jobs/{id}": (*JOB, JobFinished),
    "/v1/jobs/{id}/result": (*JOB, JobUnfinished, JobFinished, Overloaded),
    "/v1/jobs/{id}/preview": (*JOB, JobUnfinished, JobFinished, Overloaded),
    "/v1/jobs/{id}/events": (*JOB, ParameterInvalid, Overloaded),
    "/v1/styles/{name}/thumbnail": (StyleUnknown, *ANY),
}
SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
PARAMETERS = {"name": "a served model's name", "model": "a served model's name", "version": "always 1"}
REQUEST_HEADERS = (
    ("X-Timeout-Ms", "the client's deadline in milliseconds; the server's own limit if later", "number", 250),
    (
        "X-Request-ID",
        "printable, at most 128 characters; comes back, and stands in the log",
        "string",
        "mine-1",
    ),
)
ID = {"X-Request-ID": ("the client's, or a new one", "string", "mine-1")}
TRACE = {
    "Server-Timing": (
        "decode, queue and compute in ms",
        "string",
        "decode;dur=1.9, queue;dur=0.1, compute;dur=6.2",
    ),
    "X-Batch-Size": ("images in the batch that computed the answer", "integer", 2),
}
LOCATION = {"Location": ("the job", "string", "/v1/jobs/0f8fad5bd9cb469fa165708674f0bd3e")}
RETRY = {"Retry-After": ("seconds in which trying again makes sense", "integer", 1)}


def document(app: FastAPI) -> Node:
    """The OpenAPI document of an application, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                _complete(path, method, operation)
        components = made.setdefault("components", {})
        components["securitySchemes"] = SCHEMES
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own 422, which nobody gets here
            components.get("schemas", {}).pop(name, None)
        _, ours = models_json_schema(
            [(model, "validation") for model in (ProblemOut, ErrorOut, CompareIn, InferIn)],
            ref_template="#/components/schemas/{model}",
        )
        components.setdefault("schemas", {}).update(ours["$defs"])
        app.openapi_schema = made
    return app.openapi_schema


def _complete(path: str, method: str, operation: Node) -> None:
    computes = method == "post" and (path.startswith("/v1/") or path.endswith("/infer"))
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        if parameter["in"] == "path":
            parameter.setdefault("description", PARAMETERS.get(parameter["name"]))
    if computes:
        parameters += [
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": what,
                "schema": {"type": kind},
                "example": example,
            }
            for name, what, kind, example in REQUEST_HEADERS
        ]
    responses = operation["responses"]
    for status in [status for status in responses if not status.startswith("2")]:
        del responses[status]
    (good,) = responses.values()
    good["headers"] = _headers(ID | (LOCATION if path == SUBMIT else TRACE if computes else {}))
    content = good.setdefault("content", {})
    if path in ANSWERS and "application/json" in content:
        content["application/json"]["example"] = ANSWERS[path]
    if path in PICTURES:
        for kind in ("image/jpeg", "image/png", "image/webp"):
            content[kind] = {"schema": {"type": "string", "format": "binary"}}
    if not path.startswith("/v2/health"):
        operation["security"] = SECURITY
        responses |= _problems(_errors(path, method, computes), plain=path.startswith("/v2"))


def _errors(path: str, method: str, computes: bool) -> Iterable[type[Exception]]:
    for key in (f"{method} {path}", path):
        if key in BY_PATH:
            return BY_PATH[key]
    if computes:
        return IMAGE
    return NAMED if "{" in path else ANY


def _problems(raised: Iterable[type[Exception]], *, plain: bool) -> dict[str, Node]:
    """The error answers by status, each with an example for every code.

    Args:
        raised: rows of the table; `internal` comes by itself.
        plain: as the Open Inference Protocol has them, `{"error": ...}`.
    """
    kinds = [*(TABLE[error] for error in raised), INTERNAL]
    kind_type = "application/json" if plain else "application/problem+json"
    schema = "ErrorOut" if plain else "ProblemOut"
    found: dict[str, Node] = {}
    for kind in kinds:
        answer = found.setdefault(str(kind.http), {"headers": _headers(ID), "content": {}, "description": ""})
        answer["description"] = "; ".join(
            filter(None, (answer["description"], f"`{kind.code}`: {kind.title}"))
        )
        body = answer["content"].setdefault(
            kind_type, {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": {}}
        )
        body["examples"][kind.code] = {"value": {"error": kind.title} if plain else _example(kind)}
        if kind.http in (429, 503):
            answer["headers"] |= _headers(RETRY)
    return found


def _example(kind: Kind) -> Node:
    parameter = "top_k" if kind.code == "parameter_invalid" else None
    image = "a" if kind.code.startswith("face") else None
    return dict(Problem(kind, kind.title, parameter=parameter, image=image).body())


def _headers(headers: dict[str, tuple[str, str, Any]]) -> Node:
    return {
        name: {"description": what, "schema": {"type": kind}, "example": example}
        for name, (what, kind, example) in headers.items()
    }
