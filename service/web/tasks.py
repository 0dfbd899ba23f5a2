"""One route for each task, made from the task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from models.errors import ParameterInvalid
from models.parameters import checked
from service.tasks import TASKS
from service.tasks.render import ImageFormat
from service.tasks.task import Task
from service.web.context import begin, service_of, while_connected
from service.web.json_text import Structure, check_structure
from service.web.openapi import task_route
from service.web.requests import parsed, read_images, read_json, read_parameters
from service.web.responses import image_response, json_response, results_response, wanted_image

BODY_BYTES = 1024 * 1024
"""Of a task's JSON body."""

STRUCTURE = Structure(values=16 * 1024, lists=256, objects=256, names=4096)
"""Of the same: two faces with embeddings of up to 4,096 numbers."""

Handler = Callable[[Request], Awaitable[Response]]


def _handler(task: Task[Any, Any]) -> Handler:
    """Answers requests for one task."""

    async def handle(request: Request) -> Response:
        context = begin(request, task.name)
        service = service_of(request)
        params = read_parameters(request, task.params)
        service.check_models(task, params)  # before the body is read
        default: ImageFormat | None = "jpeg" if task.image_first else None
        image_format = wanted_image(request, default=default) if task.draw is not None else None
        if task.run is None:
            image_format = image_format or "jpeg"
        if task.body is not None:
            body = await read_json(request, BODY_BYTES)
            given = await parsed(request, body, partial(_validated, task, body))
            answer = await service.run(task, given, params, context)
            return json_response(_present(task, params, answer))
        found = await read_images(request, task.images)
        if task.several and (image_format is None or len(found["image"]) > 1):
            images = [{"image": image} for image in found["image"]]
            async with while_connected(request):
                answers = await service.run_each(task, images, params, context)
            return results_response(request, answers, partial(_present, task, params))
        for name, images_of_name in found.items():
            if len(images_of_name) > 1:
                raise ParameterInvalid(name, f"{len(images_of_name)} images named {name!r}; send one")
        one = {name: images_of_name[0] for name, images_of_name in found.items()}
        async with while_connected(request):
            if image_format is not None:
                drawn = await service.draw(task, one, params, image_format, context)
                return image_response(drawn.result.data, image_format)
            answer = await service.run(task, one, params, context)
        return json_response(_present(task, params, answer))

    return handle


def _present(task: Task[Any, Any], params: Any, answer: Any) -> object:
    assert task.present is not None  # noqa: S101 (a task that is run is presented)
    return task.present(answer, params)


def _validated(task: Task[Any, Any], body: bytes) -> Any:
    assert task.body is not None  # noqa: S101
    check_structure(body, STRUCTURE)
    return checked(task.body, body)


def make_router() -> APIRouter:
    """The routes of all tasks."""
    router = APIRouter(prefix="/v1")
    for task in TASKS:
        router.add_api_route(
            f"/{task.path}",
            _handler(task),
            methods=["POST"],
            name=task.name,
            description=task.summary,
            tags=[task.path.split("/")[0]],
            **task_route(task),
        )
    return router
