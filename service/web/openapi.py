"""The API's own document (OpenAPI 3.1), from what each route says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import BaseModel, TypeAdapter

from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported, ModelUnknown, ParameterInvalid
from models.parameters import Parameters, properties
from service import __version__
from service.errors import (
    INTERNAL,
    TABLE,
    DeadlineExceeded,
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
from service.tasks.task import Body
from service.web.images import FORM, JSON, RAW
from service.web.request import FORMATS as ACCEPTED
from service.web.route import Headers, Route, is_plain
from service.web.v2.codec import InferBody

A = TypeVar("A")
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
FORMATS: Final = tuple(kind for kind in ACCEPTED if "*" not in kind)
"""Of answers that are images."""

SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
TAKEN: Final[Headers] = {
    "X-Timeout-Ms": ("the client's deadline in milliseconds; the server's own limit if later", "number", 250),
    "X-Request-ID": ("printable, at most 128 characters; in the answer and the log", "string", "mine-1"),
}
ID: Final[Headers] = {"X-Request-ID": ("the client's, or a new one", "string", "mine-1")}
TIMING: Final[Headers] = {
    "Server-Timing": (
        "decode, queue and compute in ms",
        "string",
        "decode;dur=1.9, queue;dur=0.1, compute;dur=6.2",
    ),
    "X-Batch-Size": ("images in the batch that computed the answer", "integer", 2),
}
RETRY: Final[Headers] = {"Retry-After": ("seconds in which trying again makes sense", "integer", 1)}
PATHS: Final = {
    "id": "a job's id",
    "model": "a served model's name",
    "name": "the model's name, or the style's",
    "version": "always 1",
}
"""What stands in a path, by name."""
BINARY: Final[Node] = {"type": "string", "format": "binary"}
BASE64: Final[Node] = {"type": "string", "format": "byte"}
PROTOCOL: Final = (Descriptor, FieldDescriptor)
REFERENCE: Final = "#/components/schemas/{model}"


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


class Results(BaseModel, Generic[A]):
    """What several images get, in order: each its answer, or its own problem."""

    results: list[A | ProblemAnswer]


def images_body(params: type[Parameters], *fields: str, several: bool = False) -> Node:
    """The body of a request that holds images under these names, and may hold parameters besides.

    Args:
        params: what may stand in it as in the query.
        fields: names of images.
        several: the only field may come again.
    """
    others = properties(params)

    def form(image: Node) -> Node:
        named = {"type": "object", "properties": dict.fromkeys(fields, image) | others}
        return {"schema": named | {"required": list(fields)}}

    def every(image: Node) -> Node:
        return {"type": "array", "items": image, "minItems": 1}

    content = {
        FORM: form(every(BINARY) if several else BINARY),
        JSON: form({"oneOf": [BASE64, every(BASE64)]} if several else BASE64),
    }
    if len(fields) == 1:
        content |= {kind: {"schema": BINARY} for kind in RAW}
    return {"required": True, "content": content}


def json_body(schema: str, **others: Node) -> Node:
    """The body of a request that is JSON of a schema, or of another type."""
    content = {JSON: {"schema": {"$ref": REFERENCE.format(model=schema)}}} | others
    return {"required": True, "content": content}


def task_body(body: type[Body]) -> Node:
    """The body of a task that takes more than images: JSON, or a form where it may hold some."""
    if not body.files:
        return json_body(body.__name__)
    named: Node = {}
    for name, field in body.model_fields.items():
        about = {} if field.description is None else {"description": field.description}
        text = {"type": "string", "contentMediaType": JSON}
        named[name] = (BINARY if name in body.files else text) | about
    required = [name for name, field in body.model_fields.items() if field.is_required()]
    form = {"schema": {"type": "object", "properties": named, "required": required}}
    return json_body(body.__name__, **{FORM: form})


def document(routes: Sequence[Route]) -> Node:
    """The OpenAPI document of these routes."""
    shown = [route for route in routes if route.tag]
    bodies: list[type[BaseModel]] = [ProblemAnswer, ErrorAnswer, InferBody]
    bodies += [task.body for task in TASKS if task.body is not None]
    typed = [one for one in enumerate(shown) if not isinstance(one[1].answer, PROTOCOL)]
    answers, schemas = TypeAdapter.json_schemas(
        [
            *((index, "serialization", TypeAdapter(route.answer)) for index, route in typed),
            *((body.__name__, "validation", TypeAdapter(body)) for body in bodies),
        ],
        ref_template=REFERENCE,
    )
    paths: Node = {}
    for index, route in enumerate(shown):
        is_protocol = isinstance(route.answer, PROTOCOL)
        schema = protocol_schema(route.answer) if is_protocol else answers[index, "serialization"]
        if "anyOf" in schema:  # of classes that have no field in common
            schema = {"oneOf": schema["anyOf"]}
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lynceus",
            "summary": "Batched vision models behind typed endpoints.",
            "version": __version__,
        },
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": SCHEMES},
    }


def _operation(route: Route, schema: Node) -> Node:
    good: Node = {
        "description": "The answer",
        "headers": _headers({**ID, **(TIMING if route.task else {}), **route.gives}),
        "content": {kind: {"schema": BINARY} for kind in route.media},
    }
    if route.answer is not None:
        good["content"][JSON] = {"schema": schema, "example": route.example}
    found: Node = {
        "operationId": route.name,
        "summary": route.name.replace("_", " ").capitalize(),
        "description": route.about,
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": {str(route.status): good},
    }
    if not route.is_open:
        found["responses"] |= _problems((*OPEN, *route.errors), plain=is_plain(route.path))
        found["security"] = [{}, *({name: []} for name in SCHEMES)]
    if route.body is not None:
        found["requestBody"] = route.body
    if route.image_first:
        found["x-image-first"] = True
    return found


def _parameters(route: Route) -> list[Node]:
    def one(name: str, where: str, about: str, schema: Node) -> Node:
        required = where == "path"
        return {"name": name, "in": where, "required": required, "description": about, "schema": schema}

    names = re.findall(r"{(\w+)}", route.path)
    found = [one(name, "path", PATHS[name], {"type": "string"}) for name in names]
    for node in found:
        if node["name"] in route.models:
            node["x-model-kind"] = route.models[node["name"]].value
    for name, schema in ({} if route.params is None else properties(route.params)).items():
        found.append(one(name, "query", schema.pop("description"), schema))
        if name in route.models:
            found[-1]["x-model-kind"] = route.models[name].value
    for name, (about, kind, example) in {**route.takes, **(TAKEN if route.task else {})}.items():
        schema = {"type": kind} if isinstance(kind, str) else kind
        found.append(one(name, "header", about, schema) | {"example": example})
    return found


_TYPES: Final = {
    FieldDescriptor.CPPTYPE_BOOL: "boolean",
    FieldDescriptor.CPPTYPE_STRING: "string",
    FieldDescriptor.CPPTYPE_FLOAT: "number",
    FieldDescriptor.CPPTYPE_DOUBLE: "number",
}


def protocol_schema(kind: Descriptor | FieldDescriptor) -> Node:
    """The JSON Schema of a protobuf message or field, with the fields' own names and integers as numbers."""
    if isinstance(kind, Descriptor):
        fields = {field.name: protocol_schema(field) for field in kind.fields}
        return {"type": "object", "properties": fields}
    inner = kind.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": protocol_schema(inner.fields_by_name["value"])}
    if inner is not None:
        schema = protocol_schema(inner)
    elif kind.enum_type is not None:
        schema = {"type": "string", "enum": [value.name for value in kind.enum_type.values]}
    else:
        schema = {"type": _TYPES.get(kind.cpp_type, "integer")}
    return {"type": "array", "items": schema} if kind.is_repeated else schema


def _problems(raised: Iterable[type[Exception]], *, plain: bool) -> Node:
    """The error answers by status, each with an example for every code."""
    media = JSON if plain else "application/problem+json"
    schema = ErrorAnswer if plain else ProblemAnswer
    found: Node = {}
    for kind in (*(TABLE[error] for error in raised), INTERNAL):
        answer = found.setdefault(
            str(kind.http),
            {
                "description": "",
                "headers": _headers({**ID, **(RETRY if kind.http in (429, 503) else {})}),
                "content": {
                    media: {"schema": {"$ref": REFERENCE.format(model=schema.__name__)}, "examples": {}}
                },
            },
        )
        about = f"`{kind.code}`: {kind.title}"
        answer["description"] = "; ".join(filter(None, (answer["description"], about)))
        parameter = "top_k" if kind.code == "parameter_invalid" else None
        problem = Problem(kind, kind.title, parameter, "a" if kind.code.startswith("face") else None)
        example = {"error": kind.title} if plain else problem.body()
        answer["content"][media]["examples"][kind.code] = {"value": example}
    return found


def _headers(headers: Headers) -> Node:
    return {
        name: {"description": about, "schema": {"type": kind}, "example": example}
        for name, (about, kind, example) in headers.items()
    }
