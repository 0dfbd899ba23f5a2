"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict

from models.errors import ModelUnknown, ParameterInvalid
from service.errors import NotReady
from service.inference.desk import InferenceDesk
from service.inference.request import InferRequest, InferResponse, Value, Wanted
from service.inference.tensors import Given
from service.rpc.call import current, deadline_of
from service.rpc.frames import in_order
from service.rpc.stubs import open_inference_pb2 as pb
from service.rpc.stubs.open_inference_pb2_grpc import GRPCInferenceServiceServicer

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

TASKS: Final = {"ModelInfer": "infer", "ModelStreamInfer": "infer_stream"}
"""Label for the metrics by method; other methods are not counted."""

AHEAD: Final = 64
"""Requests of one stream that may be under way."""

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
    """Errors are raised as they are: the interceptor knows the table.

    Args:
        desk: answers.
        timeout: longest that a call, or a request of a stream, may take, seconds.
        stopping: once set, streams answer what they have read and end.
    """

    def __init__(self, desk: InferenceDesk, timeout: float, stopping: asyncio.Event) -> None:
        self._desk = desk
        self._timeout = timeout
        self._stopping = stopping

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        try:
            self._desk.check_live()
        except NotReady:
            return pb.ServerLiveResponse(live=False)
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        try:
            self._desk.check_ready()
        except NotReady:
            return pb.ServerReadyResponse(ready=False)
        return pb.ServerReadyResponse(ready=True)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        try:
            self._desk.check_ready(request.name, request.version)
        except NotReady:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return ParseDict(self._desk.server(), pb.ServerMetadataResponse())

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        return ParseDict(self._desk.metadata(request.name, request.version), pb.ModelMetadataResponse())

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        config = self._desk.configuration(request.name, request.version)
        return ParseDict({"config": config}, pb.ModelConfigResponse())

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        figures = self._desk.statistics(request.name, request.version)
        return ParseDict(figures, pb.ModelStatisticsResponse())

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        if request.repository_name:
            raise ModelUnknown(f"there is no repository {request.repository_name!r}; leave the name out")
        return ParseDict({"models": self._desk.index(ready=request.ready)}, pb.RepositoryIndexResponse())

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        answer = await self._desk.infer(_request(request), deadline_of(context, self._timeout))
        current.get().trace = answer.trace
        return _response(answer)

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        ids: list[str] = []  # of the requests under way, the oldest first

        async def noted() -> AsyncIterator[pb.ModelInferRequest]:
            async for request in requests:
                ids.append(request.id)
                yield request

        async def one(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
            return _response(await self._desk.infer(_request(request), deadline_of(context, self._timeout)))

        async for outcome in in_order(noted(), one, AHEAD, self._stopping):
            identity = ids.pop(0)
            if isinstance(outcome, pb.ModelInferResponse):
                yield pb.ModelStreamInferResponse(infer_response=outcome)
            else:
                yield pb.ModelStreamInferResponse(
                    error_message=outcome.detail, infer_response=pb.ModelInferResponse(id=identity)
                )


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
        if any(name.startswith("shared_memory") for name in tensor.parameters):
            raise ParameterInvalid(tensor.name, "tensors in shared memory are not accepted")
        if any(size < 0 for size in tensor.shape):
            raise ParameterInvalid(tensor.name, f"the shape {list(tensor.shape)} has a negative size")
        if raw and tensor.HasField("contents"):
            raise ParameterInvalid(tensor.name, f"the input {tensor.name!r} has both raw and typed contents")
        field = _CONTENTS.get(tensor.datatype)
        typed = [] if field is None else list(getattr(tensor.contents, field))
        inputs.append(Given(tensor.name, tensor.datatype, tuple(tensor.shape), raw[index] if raw else typed))
    outputs = [Wanted(output.name, _classes(output.parameters)) for output in message.outputs]
    return InferRequest(
        message.model_name, message.model_version, inputs, outputs, _values(message.parameters), message.id
    )


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
            raise ParameterInvalid(name, f"the parameter {name!r} has no value")
        values[name] = getattr(parameter, choice)
    return values


def _response(answer: InferResponse) -> pb.ModelInferResponse:
    message = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=answer.id)
    for tensor in answer.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(tensor.raw())
    return message
