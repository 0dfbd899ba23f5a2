"""One route for each task, made from the task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.responses import Response

from models.errors import MediaTypeUnsupported, echoed
from models.parameters import checked
from service.tasks import TASKS
from service.tasks.task import Task
from service.web.images import JSON, is_json, kind_of, only, read_images
from service.web.json_text import Structure, check_structure
from service.web.openapi import BODY, FORMATS, IMAGE, Results, images_body, json_body
from service.web.request import Request
from service.web.responses import image_response, json_response, results_response
from service.web.route import Route

BODY_BYTES = 1024 * 1024
"""Of a task's JSON body."""

STRUCTURE = Structure(values=16 * 1024, lists=256, objects=256, names=4096)
"""Of the same: two faces with embeddings of up to 4,096 numbers."""


def _handler(task: Task[Any, Any]) -> Callable[[Request], Awaitable[Response]]:
    """Answers requests for one task."""

    async def handle(request: Request) -> Response:
        service, context = request.service, request.context
        params = request.parameters(task.params)
        service.check_models(task, params)  # before the body is read
        if task.body is not None:
            given = await _body(task, request)
            return json_response(task.presented(await service.run(task, given, params, context), params))
        image_format = None
        if task.draw is not None:
            image_format = request.wanted_image(default="jpeg" if task.image_first else None)
            if task.run is None:
                image_format = image_format or "jpeg"
        form = await read_images(request, task.images)
        found = form.images
        if form.parameters:
            params = request.parameters(task.params, form.parameters)
            service.check_models(task, params)
        present = partial(task.presented, params=params)
        if task.several and (image_format is None or len(found["image"]) > 1):
            images = [{"image": image} for image in found["image"]]
            with request.watched():
                answers = await service.run_each(task, images, params, context)
            return results_response(context, answers, present)
        one = only(found)
        with request.watched():
            if image_format is not None:
                drawn = await service.draw(task, one, params, image_format, context)
                return image_response(drawn.result.data, image_format)
            return json_response(present(await service.run(task, one, params, context)))

    return handle


async def _body(task: Task[Any, Any], request: Request) -> Any:
    """The JSON body of a task without images."""
    kind = kind_of(request.headers.get("content-type", JSON))
    if not is_json(kind):
        raise MediaTypeUnsupported(f"the content type {echoed(kind)} is not accepted; send {JSON}")
    body = await request.content(BODY_BYTES)

    def parse() -> Any:
        assert task.body is not None  # noqa: S101
        check_structure(body, STRUCTURE)
        return checked(task.body, body)

    return await request.parse(body, parse)


def _answer(task: Task[Any, Any]) -> Any:
    """The type of a task's JSON answer: of one image's, or of several's."""
    one: Any = task.answer
    return one | Results[one] if one and task.several and task.images else one


ROUTES = [
    Route(
        method="POST",
        path=f"/v1/{task.path}",
        handle=_handler(task),
        name=task.name,
        about=task.summary,
        tag=task.path.split("/")[0],
        task=task.name,
        answer=_answer(task),
        example=task.example or None,
        media=FORMATS if task.draw is not None else (),
        errors=(*(IMAGE if task.images else BODY), *task.errors),
        params=task.params,
        models=task.models,
        image_first=task.image_first,
        body=images_body(task.params, *task.images, several=task.several)
        if task.body is None
        else json_body(task.body.__name__),
    )
    for task in TASKS
]
