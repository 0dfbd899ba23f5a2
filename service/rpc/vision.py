"""`lynceus.v1.Vision`: a method for each task, a stream of frames for some, and what is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.message_factory import GetMessageClass

from models.parameters import checked
from service import cards
from service.app import Service
from service.errors import Problem
from service.rpc.codec import given, handlers, message_of
from service.rpc.context import Call, current, deadline_of
from service.rpc.receive import Frames
from service.rpc.streams import in_order
from service.rpc.stubs import vision_pb2 as pb
from service.rpc.wire import FRAMING, Bounds
from service.tasks import TASKS
from service.tasks.task import Body, Task

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Vision"]
FORMAT: Final = "format"
"""The field that asks for an image as the answer, and in which format."""
FLOAT: Final = 4
"""Bytes of a number in a message."""
ENTRY: Final = 16
"""Bytes of the tags and lengths of an entry of a list."""


def labels() -> dict[str, str]:
    """Label of metrics by method; methods that are no task are not counted."""
    found = {task.method: task.name for task in TASKS}
    return found | {f"{task.method}Stream": f"{task.name}_stream" for task in TASKS if task.stream}


def bounds() -> dict[str, Bounds]:
    """Of the messages of tasks that take a long list, by full method name."""
    return {
        f"/{SERVICE.full_name}/{task.method}": Bounds(
            entries=rows.entries,
            framing=FRAMING + rows.entries * (rows.text + ENTRY),
            numbers=rows.numbers * FLOAT,
            holders=(f"{SERVICE.file.package}.{rows.message}",),
            advice="",
            data=rows.numbers * FLOAT,
        )
        for task in TASKS
        if (rows := task.rows) is not None
    }


class Vision:
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
        engine = self._service.engine
        methods: dict[str, Callable[[Any, Call], Any]] = {
            task.method: partial(self._answer, task) for task in TASKS
        }
        methods |= {f"{task.method}Stream": partial(self._frames, task) for task in TASKS if task.stream}
        methods["ListStyles"] = self._styles  # with their thumbnails
        methods["ListLayers"] = self._layers
        documents: dict[str, Callable[[Any], Any]] = {
            "ListModels": lambda request: cards.models_answer(engine),
            "GetModel": lambda request: cards.model_detail(engine, request.name),
        }
        return handlers(SERVICE, methods, documents)

    async def _styles(self, request: pb.ListStylesRequest, call: Call) -> Any:
        return message_of(
            SERVICE.methods_by_name["ListStyles"].output_type, {"styles": cards.styles(self._service.engine)}
        )

    async def _layers(self, request: pb.ListLayersRequest, call: Call) -> Any:
        answer = await cards.layers(self._service.engine, request.model, current.get().deadline)
        return message_of(SERVICE.methods_by_name["ListLayers"].output_type, answer)

    async def _answer(self, task: Task[Any, Any], request: Any, call: Call) -> Any:
        """The reply to one request for a task."""
        service, context = self._service, current.get()
        if task.rows is not None:
            fields, body = await service.engine.in_decoder(partial(_taken, task, request), context.deadline)
        else:
            fields, body = _taken(task, request)
        image_format = fields.pop(FORMAT, "jpeg" if task.run is None else None)
        images = {name: fields.pop(name, b"") for name in task.images}
        taken: Any = images if body is None else body
        params = task.params.of(fields)
        reply = SERVICE.methods_by_name[task.method].output_type
        if image_format is not None:
            drawn = await service.draw(task, images, params, image_format, context)
            size = {"width": drawn.result.width, "height": drawn.result.height}
            shown = {"model": drawn.model, "image": size, "picture": drawn.result.data}
            return message_of(reply, {**drawn.result.about, **shown})
        answer = await service.run(task, taken, params, context)
        return message_of(reply, (task.reply or task.presented)(answer, params))

    async def _frames(self, task: Task[Any, Any], frames: Frames[Any], call: Call) -> AsyncIterator[Any]:
        frame = GetMessageClass(SERVICE.methods_by_name[f"{task.method}Stream"].output_type)
        limit = self._service.settings.timeout_seconds

        async def one(request: Any) -> Any:  # in a task of its own
            current.set(replace(current.get(), deadline=deadline_of(call, limit)))
            return await self._answer(task, request, call)

        async for outcome in in_order(frames, one, partial(self._service.window, task), self._stopping):
            if isinstance(outcome, Problem):
                problem = pb.Problem(
                    code=outcome.kind.code, detail=outcome.detail, parameter=outcome.parameter or ""
                )
                yield frame(problem=problem)
            else:
                yield frame(result=outcome)


def _taken(task: Task[Any, Any], request: Any) -> tuple[dict[str, Any], Body | None]:
    """The fields of a request, and the task's body made of those that are its."""
    fields = given(request)
    if task.body is None:
        return fields, None
    body = {name: fields.pop(name) for name in task.body.model_fields if name in fields}
    return fields, checked(task.body, body)
