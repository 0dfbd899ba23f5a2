"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import grpc

from models.errors import ModelUnknown, ParameterInvalid, echoed
from models.parameters import checked
from service.app import Service
from service.errors import Problem
from service.oip import documents
from service.oip.adapter import ModelAdapter, find
from service.oip.infer import infer
from service.oip.request import InferRequest, InferResponse, OutputParameters, Value
from service.oip.stubs import open_inference_pb2 as pb
from service.oip.tensors import DEPTH, InputTensor
from service.request import RequestContext
from service.rpc.codec import handlers
from service.rpc.context import Call, current, deadline_of
from service.rpc.receive import Frames
from service.rpc.streams import in_order

SERVICE: Final = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
TASKS: Final = {"ModelInfer": "infer", "ModelStreamInfer": "infer_stream"}
"""Label for the metrics by method; other methods are not counted."""

AHEAD: Final = 64
"""Requests of one stream that may be under way."""

FEW: Final = 4096
"""Numbers that are looked at one by one whatever the shape."""

_CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class Inference:
    """Errors are raised unchanged: the interceptor maps them to statuses.

    Args:
        service: that answers.
        stopping: once set, streams answer what they have read and end.
    """

    def __init__(self, service: Service, stopping: asyncio.Event) -> None:
        self._service = service
        self._stopping = stopping

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        service, engine = self._service, self._service.engine

        def model(request: Any) -> ModelAdapter:
            return find(service, request.name, request.version)

        described: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda request: {"live": engine.alive},
            "ServerReady": lambda request: {"ready": engine.ready},
            "ModelReady": lambda request: {"ready": engine.is_ready(model(request).card.name)},
            "ServerMetadata": lambda request: documents.SERVER,
            "ModelMetadata": lambda request: documents.metadata(model(request)),
            "ModelConfig": lambda request: {"config": documents.configuration(model(request))},
            "ModelStatistics": lambda request: documents.statistics(service, request.name, request.version),
            "RepositoryIndex": self._index,
        }
        methods: dict[str, Callable[[Any, Call], Any]] = {
            "ModelInfer": self._single,
            "ModelStreamInfer": self._stream,
        }
        return handlers(SERVICE, methods, described)

    def _index(self, request: pb.RepositoryIndexRequest) -> Mapping[str, Any]:
        if request.repository_name:
            raise ModelUnknown(
                f"there is no repository {echoed(request.repository_name)}; leave the name out"
            )
        return {"models": documents.index(self._service, ready=request.ready)}

    async def _single(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        return _response(await self._infer(request, current.get()))

    async def _stream(
        self, frames: Frames[pb.ModelInferRequest], call: Call
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        limit = self._service.settings.timeout_seconds

        async def one(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                own = replace(current.get(), deadline=deadline_of(call, limit))
                answer = await self._infer(request, own)
            except Exception as exc:
                return _failed(current.get().problem_of(exc, ": a request of its stream"), request.id)
            return pb.ModelStreamInferResponse(infer_response=_response(answer))

        async for outcome in in_order(frames, one, self._ahead, self._stopping):
            yield _failed(outcome) if isinstance(outcome, Problem) else outcome

    async def _infer(self, request: pb.ModelInferRequest, context: RequestContext) -> InferResponse:
        model = find(self._service, request.model_name, request.model_version)  # before anything is copied
        return await infer(model, _request(request), context)

    def _ahead(self, request: pb.ModelInferRequest) -> int:
        """Requests of one stream that may be under way."""
        return min(AHEAD, find(self._service, request.model_name, request.model_version).runner.window)


def _request(message: pb.ModelInferRequest) -> InferRequest:
    """
    Raises:
        ParameterInvalid: the raw contents do not fit the inputs, or a parameter has no value.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise ParameterInvalid(
            "raw_input_contents",
            f"{len(raw)} raw contents for {len(message.inputs)} inputs",
        )
    inputs = []
    for index, tensor in enumerate(message.inputs):
        if len(tensor.shape) > DEPTH:
            raise ParameterInvalid(tensor.name, f"{len(tensor.shape)} dimensions; at most {DEPTH}")
        if any(name.startswith("shared_memory") for name in tensor.parameters):
            raise ParameterInvalid(tensor.name, "tensors in shared memory are not accepted")
        if any(size < 0 for size in tensor.shape):
            raise ParameterInvalid(tensor.name, f"the shape {list(tensor.shape)} has a negative size")
        if raw and tensor.HasField("contents"):
            raise ParameterInvalid(
                tensor.name, f"the input {echoed(tensor.name)} has both raw and typed contents"
            )
        data = raw[index] if raw else _typed(tensor)
        inputs.append(InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data))
    outputs = [
        (output.name, checked(OutputParameters, _values(output.parameters)).classification)
        for output in message.outputs
    ]
    return InferRequest(inputs, outputs, _values(message.parameters), message.id)


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> Sequence[Any]:
    """The values of a tensor that come as numbers, not copied.

    Raises:
        ParameterInvalid: there are many, and their count is another.
    """
    field = _CONTENTS.get(tensor.datatype)
    values: Sequence[Any] = [] if field is None else getattr(tensor.contents, field)
    if len(values) > FEW and len(values) != math.prod(tensor.shape):
        raise ParameterInvalid(
            tensor.name, f"{len(values)} values, but the shape {list(tensor.shape)} has another number"
        )
    return values


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise ParameterInvalid(name, f"the parameter {echoed(name)} has no value")
        values[name] = getattr(parameter, choice)
    return values


def _failed(problem: Problem, identity: str = "") -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(
        error_message=problem.detail, infer_response=pb.ModelInferResponse(id=identity)
    )


def _response(answer: InferResponse) -> pb.ModelInferResponse:
    message = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=answer.id)
    for tensor in answer.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(tensor.raw())
    return message
