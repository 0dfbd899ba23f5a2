"""`/v2`: the Open Inference Protocol over HTTP, as KServe's and Triton's clients speak it."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from models.errors import ImageTooLarge, ModelUnknown, ParameterInvalid
from service import __version__
from service.app import Service
from service.errors import RequestTimeout
from service.inflater import Inflater
from service.oip.service import EXTENSIONS
from service.web.compression import compressed
from service.web.context import State, begin, while_connected
from service.web.json_text import Structure, parse_json
from service.web.openapi import IMAGE, documented
from service.web.requests import INLINE as SMALL
from service.web.requests import in_decoder, read_bounded, reserve
from service.web.responses import json_response
from service.web.v2.codec import ADVICE, HEADER, Layout, most_text, parse, render
from service.web.v2.schemas import (
    EXAMPLES,
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
SERVER = {
    "name": "lynceus",
    "version": __version__,
    "extensions": list(EXTENSIONS),
}
INDEX_EXAMPLE = [{"name": "lenet5", "version": "1", "state": "READY", "reason": ""}]
TASK = "infer"
"""Label that inferences are counted under."""
INLINE = 100_000
"""Bytes that are compressed in the event loop, in a millisecond or two; more in a decoding thread."""

Model = Annotated[str, Path(description="a served model's name")]
Version = Annotated[str, Path(description="always 1")]
Handler = Callable[[Request, Service, str, str], Awaitable[Response]]


@health.get("/live", response_model=LiveOut, **documented(is_open=True, example={"live": True}))
async def live(service: State) -> Response:
    """Whether the process can answer at all."""
    service.oip.check_live()
    return json_response({"live": True})


@health.get("/ready", response_model=ReadyOut, **documented(is_open=True, example={"ready": True}))
async def ready(service: State) -> Response:
    """Whether every model answers."""
    service.oip.check_ready()
    return json_response({"ready": True})


@router.get("", response_model=ServerMetadataOut, **documented(plain=True, example=SERVER))
async def server(service: State) -> Response:
    """The server and the protocol's extensions that it has."""
    return json_response(service.oip.server())


@router.post(
    "/repository/index",
    response_model=list[RepositoryEntryOut],
    **documented(ImageTooLarge, ParameterInvalid, RequestTimeout, plain=True, example=INDEX_EXAMPLE),
)
async def index(request: Request, service: State) -> Response:
    """Every model and its state; `{"ready": true}` asks for those that answer now."""
    body = await read_bounded(request, INDEX_BYTES)
    try:
        wish = parse_json(body, INDEX).get("ready", False) if body else False
    except (ValueError, AttributeError):
        raise ParameterInvalid("body", "the body must be a JSON object, or empty") from None
    return json_response(service.oip.index(ready=wish is True))


@router.get(
    "/models/stats", response_model=StatisticsOut, **documented(plain=True, example=EXAMPLES["/stats"])
)
async def all_statistics(service: State) -> Response:
    """Counts and times of every model since the start, of all workers."""
    return json_response(service.oip.statistics())


def _versions(path: str, method: str, **options: Any) -> Callable[[Handler], Handler]:
    """Registers a handler for `/models/{model}` and for `/models/{model}/versions/{version}`."""

    def register(handler: Handler) -> Handler:
        async def plain(request: Request, service: State, model: Model) -> Response:
            return await handler(request, service, model, "")

        async def versioned(request: Request, service: State, model: Model, version: Version) -> Response:
            return await handler(request, service, model, version)

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


def _of_a_model(path: str) -> dict[str, Any]:
    return documented(ModelUnknown, plain=True, example=EXAMPLES[path])


@_versions("", "GET", response_model=ModelMetadataOut, **_of_a_model(""))
async def metadata(request: Request, service: Service, model: str, version: str) -> Response:
    """What a model takes and gives."""
    return json_response(service.oip.metadata(model, version))


@_versions(
    "/ready",
    "GET",
    response_model=ModelReadyOut,
    **_of_a_model("/ready"),
)
async def model_ready(request: Request, service: Service, model: str, version: str) -> Response:
    """Whether a model answers."""
    service.oip.check_ready(model, version)
    return json_response({"name": model, "ready": True})


@_versions("/config", "GET", response_model=ConfigOut, **_of_a_model("/config"))
async def configuration(request: Request, service: Service, model: str, version: str) -> Response:
    """A model's configuration, as Triton's clients read it."""
    return json_response(service.oip.configuration(model, version))


@_versions(
    "/stats",
    "GET",
    response_model=StatisticsOut,
    **_of_a_model("/stats"),
)
async def statistics(request: Request, service: Service, model: str, version: str) -> Response:
    """Counts and times of one model since the start, of all workers."""
    return json_response(service.oip.statistics(model, version))


@_versions(
    "/infer",
    "POST",
    response_model=InferOut,
    **documented(
        *IMAGE,
        plain=True,
        computes=True,
        example=EXAMPLES["/infer"],
        body={
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferIn"}},
                BINARY: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        request_headers={
            HEADER: (
                "length of the JSON, where bytes follow it; 0: the body is one image",
                {"type": "integer", "minimum": 0},
                0,
            )
        },
    ),
)
async def infer(request: Request, service: Service, model: str, version: str) -> Response:
    """Tensors in, tensors out: JSON, JSON with binary tensors behind it, or one image as the whole body."""
    context = begin(request, TASK)
    most, headers = service.settings.max_body_bytes, request.headers
    service.oip.check_known(model, version)
    length, most_json = headers.get(HEADER), most_text(service.settings.max_image_bytes)
    body = await read_bounded(request, most)
    async with while_connected(request):
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            # without the header all of it is JSON
            limit, advice = (min(most, most_json), ADVICE) if length is None else (most, "")
            body = await _inflated(request, Inflater(body, encoding, limit, "Content-Encoding", advice))
        reserve(request, len(body))  # what is made of it
        work = partial(parse, body, length, model, version, most_json)
        small = _text_length(body, length) <= SMALL
        wanted, layout = work() if small else await in_decoder(request, work)
        del body, work
        if BINARY in headers.get("accept", ""):
            layout = Layout(True, layout.named)
        answer = await service.oip.infer(wanted, context)
        made = partial(render, answer, layout)
        size = sum(tensor.size for tensor in answer.outputs)
        content, json_length = made() if size <= SMALL else await in_decoder(request, made)
    accepted = headers.get("accept-encoding", "")
    if len(content) > INLINE:  # as long as other requests can wait
        content, coding = await service.engine.in_decoder(partial(compressed, content, accepted))
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


async def _inflated(request: Request, inflater: Inflater) -> bytes:
    """A body as it was before its Content-Encoding, its memory reserved piece by piece."""
    whole = io.BytesIO()
    while data := await in_decoder(request, inflater.piece):
        reserve(request, len(data))
        whole.write(data)
    return whole.getvalue()
