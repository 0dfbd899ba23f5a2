"""The API's own document: FastAPI's, from what each route says of itself by `documented`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported, ModelUnknown, ParameterInvalid
from models.parameters import Parameters, properties
from service.errors import (
    INTERNAL,
    TABLE,
    DeadlineExceeded,
    ErrorKind,
    HeaderTooLarge,
    KeyBusy,
    NotReady,
    OutOfMemory,
    Overloaded,
    Problem,
    RequestTimeout,
    Unauthenticated,
)
from service.tasks import TASKS
from service.tasks.task import Task
from service.web.requests import images_body
from service.web.responses import FORMATS

Node = dict[str, Any]
Errors = tuple[type[Exception], ...]

OPEN: Final[Errors] = (Unauthenticated, KeyBusy, HeaderTooLarge)
"""Of every route that needs a key where keys are set."""
BODY: Final[Errors] = (
    ImageTooLarge,
    MediaTypeUnsupported,
    ParameterInvalid,
    RequestTimeout,
    ModelUnknown,
    OutOfMemory,
    DeadlineExceeded,
)
IMAGE: Final[Errors] = (*BODY, ImageInvalid, Overloaded, NotReady)

SECURITY: Final[list[dict[str, list[str]]]] = [{}, {"bearer": []}, {"key": []}]
SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
REQUEST_HEADERS: Final = {
    "X-Timeout-Ms": (
        "the client's deadline in milliseconds; the server's own limit if later",
        "number",
        250,
    ),
    "X-Request-ID": (
        "printable, at most 128 characters; comes back, and stands in the log",
        "string",
        "mine-1",
    ),
}
ID: Final = {"X-Request-ID": ("the client's, or a new one", "string", "mine-1")}
TIMING: Final = {
    "Server-Timing": (
        "decode, queue and compute in ms",
        "string",
        "decode;dur=1.9, queue;dur=0.1, compute;dur=6.2",
    ),
    "X-Batch-Size": ("images in the batch that computed the answer", "integer", 2),
}
LOCATION: Final = {"Location": ("the job", "string", "/v1/jobs/0f8fad5bd9cb469fa165708674f0bd3e")}
RETRY: Final = {"Retry-After": ("seconds in which trying again makes sense", "integer", 1)}
EXAMPLE: Final = "x-example"
"""Where an operation carries its example as text, until the document is made."""
BINARY: Final[Node] = {"schema": {"type": "string", "format": "binary"}}


class ProblemAnswer(BaseModel):
    """RFC 9457 problem details; `code` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    parameter: str | None = None
    image: str | None = None


class ErrorAnswer(BaseModel):
    """Every answer of the Open Inference routes other than 200."""

    error: str


def documented(
    *errors: type[Exception],
    example: Any = None,
    media: Iterable[str] = (),
    status: int = 200,
    computes: bool = False,
    plain: bool = False,
    is_open: bool = False,
    headers: Mapping[str, tuple[str, str, Any]] | None = None,
    request_headers: Mapping[str, tuple[str, str | Node, Any]] | None = None,
    params: type[Parameters] | None = None,
    body: Mapping[str, Any] | None = None,
) -> Node:
    """FastAPI's arguments for a route's decorator.

    Args:
        errors: that it gives besides those of a missing key.
        example: of its JSON answer.
        media: types of other answers.
        status: of the good answer.
        computes: a model answers: deadlines and timing headers.
        plain: errors as the Open Inference Protocol has them, `{"error": ...}`.
        is_open: needs no key.
        headers: of the good answer, besides.
        request_headers: that it takes, besides.
        params: of its query.
        body: OpenAPI's request body.
    """
    good: Node = {"headers": _headers(ID | (TIMING if computes else {}) | dict(headers or {}))}
    content = dict.fromkeys(media, BINARY)
    if content:
        good["content"] = content
    parameters = [] if params is None else query_parameters(params)
    taken = dict(request_headers or {}) | (REQUEST_HEADERS if computes else {})
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": what,
            "schema": {"type": kind} if isinstance(kind, str) else kind,
            "example": value,
        }
        for name, (what, kind, value) in taken.items()
    ]
    extra: Node = {"parameters": parameters}
    if example is not None:
        extra[EXAMPLE] = json.dumps(example)
    if body is not None:
        extra["requestBody"] = body
    if is_open:
        return {"responses": {status: good}, "openapi_extra": extra}
    extra["security"] = SECURITY
    return {
        "responses": {status: good, **_problems((*OPEN, *errors), plain=plain)},
        "openapi_extra": extra,
    }


def task_route(task: Task[Any, Any]) -> Node:
    """The same of a task's route."""
    errors = (*(IMAGE if task.images else BODY), *task.errors)
    body: Node = {"$ref": f"#/components/schemas/{task.body.__name__}"} if task.body is not None else {}
    return documented(
        *errors,
        example=task.example or None,
        media=[kind for kind in FORMATS if "*" not in kind] if task.draw is not None else (),
        computes=True,
        params=task.params,
        body={"required": True, "content": {"application/json": {"schema": body}}}
        if task.body is not None
        else images_body(*task.images),
    ) | ({"response_class": Response} if task.answer is None else {"response_model": task.answer})


def query_parameters(params: type[Parameters]) -> list[Node]:
    """OpenAPI's parameters of a query."""
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": one["description"],
            "schema": {key: value for key, value in one.items() if key != "description"},
        }
        for name, one in properties(params).items()
    ]


def document(app: FastAPI) -> Node:
    """The OpenAPI document of an application, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components = made.setdefault("components", {})
        components["securitySchemes"] = SCHEMES
        schemas = components.setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which no route answers
            schemas.pop(name, None)
        for operations in made["paths"].values():
            for operation in operations.values():
                _complete(operation)
        from service.web.v2.schemas import InferIn

        bodies: list[type[BaseModel]] = [ProblemAnswer, ErrorAnswer, InferIn]
        bodies += [task.body for task in TASKS if task.body is not None]
        _, ours = models_json_schema(
            [(body, "validation") for body in bodies],
            ref_template="#/components/schemas/{model}",
        )
        schemas.update(ours["$defs"])
        app.openapi_schema = made
    return app.openapi_schema


def _complete(operation: Node) -> None:
    """Drops FastAPI's own error, and puts the example in whole: FastAPI leaves out what is null in it."""
    responses = operation["responses"]
    content = responses.get("422", {}).get("content", {}).get("application/json", {})
    if "HTTPValidationError" in content.get("schema", {}).get("$ref", ""):
        del responses["422"]
    if EXAMPLE in operation:
        (good,) = (answer for status, answer in responses.items() if status.startswith("2"))
        good["content"]["application/json"]["example"] = json.loads(operation.pop(EXAMPLE))


def _problems(raised: Iterable[type[Exception]], *, plain: bool) -> dict[int | str, Node]:
    """The error answers by status, each with an example for every code."""
    media = "application/json" if plain else "application/problem+json"
    schema = "ErrorAnswer" if plain else "ProblemAnswer"
    found: dict[int | str, Node] = {}
    for kind in (*(TABLE[error] for error in raised), INTERNAL):
        answer = found.setdefault(kind.http, {"headers": _headers(ID), "content": {}, "description": ""})
        answer["description"] = "; ".join(
            filter(None, (answer["description"], f"`{kind.code}`: {kind.title}"))
        )
        body = answer["content"].setdefault(
            media, {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": {}}
        )
        body["examples"][kind.code] = {"value": {"error": kind.title} if plain else _example(kind)}
        if kind.http in (429, 503):
            answer["headers"] |= _headers(RETRY)
    return found


def _example(kind: ErrorKind) -> Node:
    parameter = "top_k" if kind.code == "parameter_invalid" else None
    image = "a" if kind.code.startswith("face") else None
    return dict(Problem(kind, kind.title, parameter=parameter, image=image).body())


def _headers(headers: Mapping[str, tuple[str, str, Any]]) -> Node:
    return {
        name: {"description": what, "schema": {"type": kind}, "example": example}
        for name, (what, kind, example) in headers.items()
    }
