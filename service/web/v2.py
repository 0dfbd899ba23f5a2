"""`/v2`: the Open Inference Protocol over HTTP, as KServe's and Triton's clients speak it."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from models.errors import ParameterInvalid
from service.web.answers import json_answer
from service.web.call import call_of, while_connected
from service.web.compression import Inflater, compressed
from service.web.house import INLINE as SMALL
from service.web.house import Home, House
from service.web.json_text import Structure, parse_json
from service.web.v2_codec import ADVICE, HEADER, Layout, most_text, parse, render
from service.web.v2_schemas import (
    ConfigOut,
    InferOut,
    LiveOut,
    ModelMetadataOut,
    ModelReadyOut,
    ReadyOut,
    RepositoryEntryOut,
    ServerMetadataOut,
    StatisticsOut,
)

health = APIRouter(prefix="/v2/health", tags=["open inference"])
router = APIRouter(prefix="/v2", tags=["open inference"])
BINARY = "application/octet-stream"
INDEX_BYTES = 64 * 1024
INDEX = Structure(values=1024, lists=64, objects=64, names=1024)
TASK = "infer"
"""Label that inferences are counted under."""
INLINE = 100_000
"""Bytes that are compressed in the event loop, in a millisecond or two; more in a decoding thread."""

Handler = Callable[[Request, House, str, str], Awaitable[Response]]


@health.get("/live", response_model=LiveOut)
async def live(house: Home) -> Response:
    """Whether the process can answer at all."""
    house.inference.check_live()
    return json_answer({"live": True})


@health.get("/ready", response_model=ReadyOut)
async def ready(house: Home) -> Response:
    """Whether every model answers."""
    house.inference.check_ready()
    return json_answer({"ready": True})


@router.get("", response_model=ServerMetadataOut)
async def server(house: Home) -> Response:
    """The server and the protocol's extensions that it has."""
    return json_answer(house.inference.server())


@router.post("/repository/index", response_model=list[RepositoryEntryOut])
async def index(request: Request, house: Home) -> Response:
    """Every model and its state; `{"ready": true}` asks for those that answer now."""
    body = await house.body(request, INDEX_BYTES)
    try:
        wish = parse_json(body, INDEX).get("ready", False) if body else False
    except (ValueError, AttributeError):
        raise ParameterInvalid("body", "the body must be a JSON object, or empty") from None
    return json_answer(house.inference.index(ready=wish is True))


@router.get("/models/stats", response_model=StatisticsOut)
async def all_statistics(house: Home) -> Response:
    """Counts and times of every model since the start, of all workers."""
    return json_answer(house.inference.statistics())


def _versions(path: str, method: str, **options: Any) -> Callable[[Handler], Handler]:
    """Registers a handler for `/models/{model}` and for `/models/{model}/versions/{version}`."""

    def register(handler: Handler) -> Handler:
        async def plain(request: Request, house: Home, model: str) -> Response:
            return await handler(request, house, model, "")

        async def versioned(request: Request, house: Home, model: str, version: str) -> Response:
            return await handler(request, house, model, version)

        for prefix, function, suffix in (
            ("/models/{model}", plain, ""),
            ("/models/{model}/versions/{version}", versioned, "_of_version"),
        ):
            router.add_api_route(
                prefix + path,
                function,
                methods=[method],
                name=handler.__name__ + suffix,
                description=handler.__doc__,
                **options,
            )
        return handler

    return register


@_versions("", "GET", response_model=ModelMetadataOut)
async def metadata(request: Request, house: House, model: str, version: str) -> Response:
    """What a model takes and gives."""
    return json_answer(house.inference.metadata(model, version))


@_versions("/ready", "GET", response_model=ModelReadyOut)
async def model_ready(request: Request, house: House, model: str, version: str) -> Response:
    """Whether a model answers."""
    house.inference.check_ready(model, version)
    return json_answer({"name": model, "ready": True})


@_versions("/config", "GET", response_model=ConfigOut)
async def configuration(request: Request, house: House, model: str, version: str) -> Response:
    """A model's configuration, as Triton's clients read it."""
    return json_answer(house.inference.configuration(model, version))


@_versions("/stats", "GET", response_model=StatisticsOut)
async def statistics(request: Request, house: House, model: str, version: str) -> Response:
    """Counts and times of one model since the start, of all workers."""
    return json_answer(house.inference.statistics(model, version))


@_versions(
    "/infer",
    "POST",
    response_model=InferOut,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferIn"}},
                BINARY: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "parameters": [
            {
                "name": HEADER,
                "in": "header",
                "required": False,
                "schema": {"type": "integer", "minimum": 0},
                "description": "length of the JSON, where bytes follow it; 0: the body is one picture",
            }
        ],
    },
)
async def infer(request: Request, house: House, model: str, version: str) -> Response:
    """Tensors in, tensors out: JSON, JSON with binary tensors behind it, or one picture as the whole body."""
    call = call_of(request)
    call.task = TASK
    deadline = house.deadline(request)
    most, headers = house.settings.max_body_bytes, request.headers
    house.inference.check_known(model, version)
    length, most_json = headers.get(HEADER), most_text(house.settings.max_image_bytes)
    body = await house.body(request, most)
    async with while_connected(request):
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            # without the header all of it is JSON
            limit, advice = (min(most, most_json), ADVICE) if length is None else (most, "")
            body = await _inflated(request, house, Inflater(body, encoding, limit, advice), deadline)
        house.reserve(request, len(body))  # what is made of it
        work = partial(parse, body, length, model, version, most_json)
        small = _text_length(body, length) <= SMALL
        wish, layout = work() if small else await house.aside(work, deadline)
        del body, work
        if BINARY in headers.get("accept", ""):
            layout = Layout(True, layout.named)
        answer = await house.inference.infer(wish, deadline)
        call.trace = answer.trace
        made = partial(render, answer, layout)
        size = sum(tensor.size for tensor in answer.outputs)
        content, json_length = made() if size <= SMALL else await house.aside(made, deadline)
    accepted = headers.get("accept-encoding", "")
    if len(content) > INLINE:  # as long as other requests can wait
        content, coding = await house.plane.in_decoder(partial(compressed, content, accepted))
    else:
        content, coding = compressed(content, accepted)
    response = Response(content, media_type="application/json" if json_length is None else BINARY)
    if json_length is not None:
        response.headers[HEADER] = str(json_length)
    if coding is not None:
        response.headers["Content-Encoding"] = coding
    response.headers["Vary"] = "Accept-Encoding"
    return response


def _text_length(body: bytes, header: str | None) -> int:
    """Bytes of JSON in a body, at most; what follows it costs nothing to parse."""
    if header is not None and len(header) < 10 and header.isascii() and header.isdigit():
        return min(int(header), len(body))
    return len(body)


async def _inflated(request: Request, house: House, inflater: Inflater, deadline: float) -> bytes:
    """A body as it was before its Content-Encoding, its memory reserved piece by piece."""
    whole = io.BytesIO()
    while data := await house.aside(inflater.piece, deadline):
        house.reserve(request, len(data))
        whole.write(data)
    return whole.getvalue()
