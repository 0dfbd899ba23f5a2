"""`/v2`: the Open Inference Protocol over HTTP, as KServe's and Triton's clients speak it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.responses import Response

from models.errors import ImageTooLarge, ModelUnknown, ParameterInvalid
from service.errors import NotReady, RequestTimeout
from service.oip import documents
from service.oip.adapter import ModelAdapter, find
from service.oip.infer import infer as run
from service.oip.stubs import open_inference_pb2 as pb
from service.telemetry.statistics import Statistics
from service.web.json_text import Structure, parse_json
from service.web.negotiation import compressed
from service.web.openapi import BINARY, IMAGE, json_body
from service.web.request import INLINE as SMALL
from service.web.request import Request, Watch
from service.web.responses import json_response
from service.web.route import Handler, Routes
from service.web.v2.codec import (
    ADVICE,
    HEADER,
    InferAnswer,
    ReadyAnswer,
    header_length,
    most_text,
    parse,
    render,
)

ROUTES = Routes()
OCTETS = "application/octet-stream"
FIGURES = Statistics(
    last=1_795_420_800.0,
    batches=Counter({2: 6}),
    seconds={(2, "prepare"): 0.004, (2, "compute"): 0.009, (2, "postprocess"): 0.001},
    images=Counter({"decode": 12, "queue": 12}),
    spent={"decode": 0.007, "queue": 0.002, "failed": 0.0},
)
STATISTICS = {"model_stats": [documents.model_statistics("lenet5", FIGURES, inline=False)]}
"""An example."""
INDEX_BYTES = 64 * 1024
INDEX = Structure(values=1024, lists=64, objects=64, names=1024)
INLINE = 100_000
"""Bytes that are compressed in the event loop, in a millisecond or two; more in a decoding thread."""


def _route(method: str, path: str, **others: Any) -> Callable[[Handler], Handler]:
    return ROUTES.add(method, f"/v2{path}", tag="open inference", **others)


def _of_model(method: str, path: str, **others: Any) -> Callable[[Handler], Handler]:
    """Of one model: `/models/{model}` and `/models/{model}/versions/{version}`."""

    def register(handle: Handler) -> Handler:
        others.setdefault("errors", (ModelUnknown,))
        for versioned in ("", "/versions/{version}"):
            _route(method, f"/models/{{model}}{versioned}{path}", **others)(handle)
        return handle

    return register


def _model(request: Request) -> ModelAdapter:
    """The model and version that the path names."""
    return find(request.service, request.path_params["model"], request.path_params.get("version", ""))


@_route("GET", "/health/live", is_open=True, answer=pb.ServerLiveResponse.DESCRIPTOR, example={"live": True})
async def live(request: Request) -> Response:
    """Whether the process can answer at all."""
    if not request.service.engine.alive:
        raise NotReady("a model has failed; the process must start anew")
    return json_response({"live": True})


@_route(
    "GET", "/health/ready", is_open=True, answer=pb.ServerReadyResponse.DESCRIPTOR, example={"ready": True}
)
async def ready(request: Request) -> Response:
    """Whether every model answers."""
    if not request.service.engine.ready:
        raise NotReady("the service is starting or stopping")
    return json_response({"ready": True})


@_route("GET", "", answer=pb.ServerMetadataResponse.DESCRIPTOR, example=documents.SERVER)
async def server(request: Request) -> Response:
    """The server and the protocol's extensions that it has."""
    return json_response(documents.SERVER)


@_route(
    "POST",
    "/repository/index",
    answer=pb.RepositoryIndexResponse.DESCRIPTOR.fields_by_name["models"],
    example=[{"name": "lenet5", "version": "1", "state": "READY", "reason": ""}],
    errors=(ImageTooLarge, ParameterInvalid, RequestTimeout),
)
async def index(request: Request) -> Response:
    """Every model and its state; `{"ready": true}` asks for those that answer now."""
    body = await request.content(INDEX_BYTES)
    try:
        ready = parse_json(body, INDEX).get("ready", False) if body else False
    except (ValueError, AttributeError):
        raise ParameterInvalid("body", "the body must be a JSON object, or empty") from None
    return json_response(documents.index(request.service, ready=ready is True))


@_route("GET", "/models/stats", answer=pb.ModelStatisticsResponse.DESCRIPTOR, example=STATISTICS)
async def all_statistics(request: Request) -> Response:
    """Counts and times of every model since the start, of all workers."""
    return json_response(documents.statistics(request.service))


@_of_model(
    "GET",
    "",
    answer=pb.ModelMetadataResponse.DESCRIPTOR,
    example={
        "name": "lenet5",
        "versions": ["1"],
        "platform": "openvino",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    },
)
async def metadata(request: Request) -> Response:
    """What a model takes and gives."""
    return json_response(documents.metadata(_model(request)))


@_of_model("GET", "/ready", answer=ReadyAnswer, example={"name": "lenet5", "ready": True})
async def model_ready(request: Request) -> Response:
    """Whether a model answers."""
    runner = _model(request).runner
    if not request.service.engine.is_ready(runner.card.name):
        raise NotReady(f"the model {runner.card.name} is {runner.state.value}")
    return json_response({"name": runner.card.name, "ready": True})


@_of_model(
    "GET",
    "/config",
    answer=pb.ModelConfig.DESCRIPTOR,
    example={
        "name": "lenet5",
        "platform": "openvino",
        "backend": "openvino",
        "max_batch_size": 32,
        "input": [{"name": "image", "data_type": "TYPE_STRING", "dims": [1]}],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": [10]}],
        "dynamic_batching": {},
        "parameters": {"task": {"string_value": "classify"}},
    },
)
async def configuration(request: Request) -> Response:
    """A model's configuration, as Triton's clients read it."""
    return json_response(documents.configuration(_model(request)))


@_of_model("GET", "/stats", answer=pb.ModelStatisticsResponse.DESCRIPTOR, example=STATISTICS)
async def statistics(request: Request) -> Response:
    """Counts and times of one model since the start, of all workers."""
    name = _model(request).card.name
    return json_response(documents.statistics(request.service, name))


@_of_model(
    "POST",
    "/infer",
    task="infer",
    answer=InferAnswer,
    example={
        "model_name": "lenet5",
        "model_version": "1",
        "id": "mine-1",
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.98, 0.01, 0.01]}],
    },
    errors=IMAGE,
    body=json_body("InferBody", **{OCTETS: {"schema": BINARY}}),
    takes={
        HEADER: (
            "length of the JSON, where bytes follow it; 0: the body is one image",
            {"type": "integer", "minimum": 0},
            0,
        )
    },
)
async def infer(request: Request) -> Response:
    """Tensors in, tensors out: JSON, JSON with binary tensors behind it, or one image as the whole body."""
    service, headers = request.service, request.headers
    adapter = _model(request)
    most, most_json = service.settings.max_body_bytes, most_text(service.settings.max_image_bytes)
    header = headers.get(HEADER)
    # without the header all of it is JSON
    inflated, advice = (min(most, most_json), ADVICE) if header is None else (most, "")
    body = await request.content(most, inflated, advice)
    length = header_length(header, len(body))
    with Watch(request):
        request.reserve(len(body))  # what is made of it
        work = partial(parse, body, length, most_json)
        small = (len(body) if length is None else length) <= SMALL  # what follows costs nothing to parse
        wanted, binary = work() if small else await request.in_decoder(work)
        del body, work
        if OCTETS in headers.get("accept", ""):
            binary[None] = True
        answer = await run(adapter, wanted, request.context)
        made = partial(render, answer, binary)
        size = sum(tensor.size for tensor in answer.outputs)
        content, json_length = made() if size <= SMALL else await request.in_decoder(made)
    pack = partial(compressed, content, headers.get("accept-encoding", ""))
    # in the loop as long as other requests can wait
    content, coding = pack() if len(content) <= INLINE else await service.engine.in_decoder(pack)
    response = Response(content, media_type="application/json" if json_length is None else OCTETS)
    if json_length is not None:
        response.headers[HEADER] = str(json_length)
    if coding is not None:
        response.headers["Content-Encoding"] = coding
    response.headers["Vary"] = "Accept-Encoding"
    return response
