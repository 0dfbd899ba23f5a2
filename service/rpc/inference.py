"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict

from models.errors import ModelUnknown, ParameterInvalid, echoed
from service.errors import INTERNAL, NotReady, Problem, problem_of
from service.oip.documents import SERVER
from service.oip.request import InferRequest, InferResponse, RequestedOutput, Value
from service.oip.service import OipService
from service.oip.stubs import open_inference_pb2 as pb
from service.oip.stubs.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from service.oip.tensors import InputTensor
from service.request import RequestContext
from service.rpc.context import current, deadline_of
from service.rpc.receive import Frames
from service.rpc.streams import in_order

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

TASKS: Final = {"ModelInfer": "infer", "ModelStreamInfer": "infer_stream"}
"""Label for the metrics by method; other methods are not counted."""

AHEAD: Final = 64
"""Requests of one stream that may be under way."""

DIMENSIONS: Final = 8
"""Most dimensions of a tensor."""

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


class Inference(GRPCInferenceServiceServicer):
    """Errors are raised unchanged: the interceptor maps them to statuses.

    Args:
        oip: answers.
        timeout: longest that a call, or a request of a stream, may take, seconds.
        stopping: once set, streams answer what they have read and end.
    """

    def __init__(self, oip: OipService, timeout: float, stopping: asyncio.Event) -> None:
        self._oip = oip
        self._timeout = timeout
        self._stopping = stopping

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        try:
            self._oip.check_live()
        except NotReady:
            return pb.ServerLiveResponse(live=False)
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        try:
            self._oip.check_ready()
        except NotReady:
            return pb.ServerReadyResponse(ready=False)
        return pb.ServerReadyResponse(ready=True)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        try:
            self._oip.check_ready(request.name, request.version)
        except NotReady:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return ParseDict(SERVER, pb.ServerMetadataResponse())

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        return ParseDict(self._oip.metadata(request.name, request.version), pb.ModelMetadataResponse())

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        config = self._oip.configuration(request.name, request.version)
        return ParseDict({"config": config}, pb.ModelConfigResponse())

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        figures = self._oip.statistics(request.name, request.version)
        return ParseDict(figures, pb.ModelStatisticsResponse())

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        if request.repository_name:
            raise ModelUnknown(
                f"there is no repository {echoed(request.repository_name)}; leave the name out"
            )
        return ParseDict({"models": self._oip.index(ready=request.ready)}, pb.RepositoryIndexResponse())

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        return _response(await self._infer(request, current.get()))

    async def ModelStreamInfer(  # noqa: N802
        self, frames: Frames[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async def one(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                own = replace(current.get(), deadline=deadline_of(context, self._timeout))
                answer = await self._infer(request, own)
            except Exception as exc:
                problem = problem_of(exc)
                if problem.kind is INTERNAL:
                    raise
                return _failed(problem, request.id)
            return pb.ModelStreamInferResponse(infer_response=_response(answer))

        async for outcome in in_order(frames, one, self._ahead, self._stopping):
            yield _failed(outcome) if isinstance(outcome, Problem) else outcome

    async def _infer(self, request: pb.ModelInferRequest, context: RequestContext) -> InferResponse:
        self._oip.check_known(request.model_name, request.model_version)  # before anything is copied
        return await self._oip.infer(_request(request), context)

    def _ahead(self, request: pb.ModelInferRequest) -> int:
        """Requests of one stream that may be under way."""
        return min(AHEAD, self._oip.window(request.model_name, request.model_version))


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
        if len(tensor.shape) > DIMENSIONS:
            raise ParameterInvalid(tensor.name, f"{len(tensor.shape)} dimensions; at most {DIMENSIONS}")
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
    outputs = [RequestedOutput(output.name, _classes(output.parameters)) for output in message.outputs]
    return InferRequest(
        message.model_name, message.model_version, inputs, outputs, _values(message.parameters), message.id
    )


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


def _classes(parameters: Mapping[str, pb.InferParameter]) -> int | None:
    classes = _values(parameters).get("classification")
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool)):
        raise ParameterInvalid("classification", "classification must be a whole number")
    return classes


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
