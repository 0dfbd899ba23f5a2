"""`lynceus.v1.Vision`: thin methods over the data plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, TypeAlias

import grpc

from models.errors import ModelUnknown, ParameterInvalid, echoed
from models.pipeline import Task
from service.dataplane import Answer, DataPlane
from service.faces import FaceDesk
from service.rpc import messages
from service.rpc.call import current, deadline_of
from service.rpc.frames import in_order
from service.rpc.receive import Frames
from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionServicer
from service.styles import StyleDesk

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

TASKS = {
    "Classify": "classify",
    "Detect": "detect",
    "DetectFaces": "faces_detect",
    "EmbedFaces": "faces_embed",
    "VerifyFaces": "faces_verify",
    "CompareFaces": "faces_compare",
    "Stylize": "stylize",
    "ClassifyStream": "classify_stream",
    "DetectStream": "detect_stream",
}
"""Label for the metrics by method; the same that HTTP's route of the task has."""


class Vision(VisionServicer):
    """Errors are raised as they are: the interceptor knows the table.

    Args:
        plane: the data plane.
        faces: what it says of faces.
        styles: what it paints.
        timeout: longest that a call, or a frame of a stream, may take, seconds.
        stopping: once set, streams answer what they have read and end.
    """

    def __init__(
        self,
        plane: DataPlane,
        faces: FaceDesk,
        styles: StyleDesk,
        timeout: float,
        stopping: asyncio.Event,
    ) -> None:
        self._plane = plane
        self._faces = faces
        self._styles = styles
        self._timeout = timeout
        self._stopping = stopping

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyReply:  # noqa: N802
        return messages.classified(_told(await self._classify(request, context)))

    async def Detect(self, request: pb.DetectRequest, context: Context) -> pb.DetectReply:  # noqa: N802
        return messages.detected(_told(await self._detect(request, context)))

    async def DetectFaces(  # noqa: N802
        self, request: pb.DetectFacesRequest, context: Context
    ) -> pb.DetectFacesReply:
        answer = await self._faces.detect(
            request.image,
            messages.face_options(request),
            model=request.model or None,
            deadline=deadline_of(context, self._timeout),
        )
        return messages.faces_found(_told(answer))

    async def EmbedFaces(  # noqa: N802
        self, request: pb.EmbedFacesRequest, context: Context
    ) -> pb.EmbedFacesReply:
        answer = await self._faces.embed(
            request.image,
            messages.face_options(request),
            model=request.model or None,
            embedder=request.embedder or None,
            deadline=deadline_of(context, self._timeout),
        )
        return messages.faces_embedded(_told(answer))

    async def VerifyFaces(  # noqa: N802
        self, request: pb.VerifyFacesRequest, context: Context
    ) -> pb.VerifyFacesReply:
        if request.face_select not in messages.SELECTS:
            raise ParameterInvalid("face_select", f"face_select {request.face_select} is none of the enum's")
        answer = await self._faces.verify(
            request.a,
            request.b,
            select=messages.SELECTS[request.face_select],
            threshold=messages.threshold_of(request),
            model=request.model or None,
            embedder=request.embedder or None,
            deadline=deadline_of(context, self._timeout),
        )
        faces = {name: messages.face(found) for name, found in _told(answer).result.faces.items()}
        return pb.VerifyFacesReply(verdict=messages.verdict(answer.result), a=faces["a"], b=faces["b"])

    async def CompareFaces(self, request: pb.CompareFacesRequest, context: Context) -> pb.Verdict:  # noqa: N802
        result = self._faces.compare(
            messages.embedding_of("a", request.a),
            messages.embedding_of("b", request.b),
            threshold=messages.threshold_of(request),
            embedder=request.embedder or None,
        )
        return messages.verdict(result)

    async def Stylize(self, request: pb.StylizeRequest, context: Context) -> pb.StylizeReply:  # noqa: N802
        if request.format not in messages.FORMATS:
            raise ParameterInvalid("format", f"format {request.format} is none of the enum's")
        answer = await self._styles.stylise(
            request.image,
            messages.style_options(request),
            messages.FORMATS[request.format],
            model=request.model or None,
            deadline=deadline_of(context, self._timeout),
        )
        return messages.stylised(_told(answer))

    async def ListStyles(  # noqa: N802
        self, request: pb.ListStylesRequest, context: Context
    ) -> pb.ListStylesReply:
        return pb.ListStylesReply(styles=[messages.style(item) for item in self._styles.all_styles()])

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsReply:  # noqa: N802
        names = self._plane.runners
        return pb.ListModelsReply(models=[messages.model(self._plane, name, whole=False) for name in names])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:  # noqa: N802
        if request.name not in self._plane.runners:
            served = ", ".join(self._plane.runners)
            raise ModelUnknown(f"no model named {echoed(request.name)} is served; these are: {served}")
        return messages.model(self._plane, request.name, whole=True)

    async def ClassifyStream(  # noqa: N802
        self, frames: Frames[pb.ClassifyRequest], context: Context
    ) -> AsyncIterator[pb.ClassifyFrame]:
        async def one(request: pb.ClassifyRequest) -> pb.ClassifyReply:
            return messages.classified(await self._classify(request, context))

        async for outcome in in_order(frames, one, partial(self._ahead, Task.CLASSIFY), self._stopping):
            if isinstance(outcome, pb.ClassifyReply):
                yield pb.ClassifyFrame(result=outcome)
            else:
                yield pb.ClassifyFrame(problem=messages.problem_message(outcome))

    async def DetectStream(  # noqa: N802
        self, frames: Frames[pb.DetectRequest], context: Context
    ) -> AsyncIterator[pb.DetectFrame]:
        async def one(request: pb.DetectRequest) -> pb.DetectReply:
            return messages.detected(await self._detect(request, context))

        async for outcome in in_order(frames, one, partial(self._ahead, Task.DETECT), self._stopping):
            if isinstance(outcome, pb.DetectReply):
                yield pb.DetectFrame(result=outcome)
            else:
                yield pb.DetectFrame(problem=messages.problem_message(outcome))

    async def _classify(self, request: pb.ClassifyRequest, context: Context) -> Answer[Any]:
        return await self._plane.classify(
            request.image,
            messages.classify_options(request),
            model=request.model or None,
            deadline=deadline_of(context, self._timeout),
        )

    async def _detect(self, request: pb.DetectRequest, context: Context) -> Answer[Any]:
        return await self._plane.detect(
            request.image,
            messages.detect_options(request),
            model=request.model or None,
            deadline=deadline_of(context, self._timeout),
        )

    def _ahead(self, task: Task, request: pb.ClassifyRequest | pb.DetectRequest) -> int:
        """Frames of one stream that may be under way: enough to fill batches, too few to fill the queue."""
        return self._plane.runner(task, request.model or None).window


def _told(answer: Answer[Any]) -> Answer[Any]:
    current.get().trace = answer.trace
    return answer
