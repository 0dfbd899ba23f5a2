"""One route for each task, made from the task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from starlette.responses import Response

from models.errors import MediaTypeUnsupported, echoed
from models.parameters import checked, checked_parts
from service.tasks import TASKS
from service.tasks.task import Body, Task
from service.web.images import FORM, JSON, is_json, kind_of, only, parts_of, read_images
from service.web.json_text import Structure, check_structure
from service.web.openapi import BODY, FORMATS, IMAGE, Results, images_body, task_body
from service.web.request import Request, Watch
from service.web.responses import image_response, json_response, results_response
from service.web.route import Route

BODY_BYTES = 1024 * 1024
"""Of a task's JSON body."""

STRUCTURE = Structure(values=16 * 1024, lists=256, objects=256, names=4096)
"""Of the same: two faces with embeddings of up to 4,096 numbers."""

NUMBER: Final = 32
"""Bytes of a number in a long list as JSON text, with the comma and the white space of an indented one."""

ENTRY: Final = 8
"""Fields of an entry of such a list."""

PARSED: Final = 32
"""Bytes that a number takes while the JSON is parsed."""


def _handler(task: Task[Any, Any]) -> Callable[[Request], Awaitable[Response]]:
    """Answers requests for one task."""

    async def handle(request: Request) -> Response:
        service, context = request.service, request.context
        params = request.parameters(task.params)
        service.check_models(task, params)  # before the body is read
        if task.body is not None:
            given = await _body(task, request)
            if given.parameters:
                params = request.parameters(task.params, given.parameters)
                service.check_models(task, params)
            with Watch(request):
                answer = await service.run(task, given, params, context)
            return json_response(task.presented(answer, params))
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
        if task.several and len(found["image"]) > 1:
            images = [{"image": image} for image in found["image"]]
            with Watch(request):
                answers = await service.run_each(task, images, params, context)
            return results_response(context, answers, present)
        one = only(found)
        with Watch(request):
            if image_format is not None:
                drawn = await service.draw(task, one, params, image_format, context)
                return image_response(drawn.result.data, image_format)
            return json_response(present(await service.run(task, one, params, context)))

    return handle


async def _body(task: Task[Any, Any], request: Request) -> Body:
    """The body of a task that takes more than images.

    Raises:
        MediaTypeUnsupported: it is neither JSON nor, where it may hold an image, a form.
        Exception: as `Request.content`, `check_structure` and `checked` do.
    """
    content_type = request.headers.get("content-type", JSON)
    kind, body_type = kind_of(content_type), task.body
    assert body_type is not None  # noqa: S101
    accepted = (JSON, FORM) if body_type.files else (JSON,)
    if not is_json(kind) and kind not in accepted:
        raise MediaTypeUnsupported(
            f"the content type {echoed(kind)} is not accepted; send {' or '.join(accepted)}"
        )
    settings, structure, most = request.service.settings, structure_of(task), bytes_of(task)
    images = len(body_type.files) * settings.max_image_bytes
    body = await request.content(min(most + images * 4 // 3, settings.max_body_bytes))  # base64
    if task.rows is not None:
        request.reserve(min(len(body), task.rows.numbers) * PARSED)

    def parse() -> Body:
        if kind == FORM:
            form = parts_of(body, content_type, tuple(body_type.model_fields))
            texts = only(form.images)
            files = {name: texts.pop(name) for name in body_type.files if name in texts}
            for text in texts.values():
                check_structure(text, structure)
            return checked_parts(body_type, files | dict(form.parameters), texts)
        check_structure(body, structure)
        return checked(body_type, body)

    return await request.parse(body, parse)


def bytes_of(task: Task[Any, Any]) -> int:
    """Most bytes of a task's JSON body, without images."""
    rows = task.rows
    return BODY_BYTES if rows is None else BODY_BYTES + rows.numbers * NUMBER + rows.entries * 3 * rows.text


def structure_of(task: Task[Any, Any]) -> Structure:
    """Most structure of the same."""
    rows = task.rows
    if rows is None:
        return STRUCTURE
    return Structure(
        values=STRUCTURE.values + rows.numbers + rows.entries * ENTRY,
        lists=STRUCTURE.lists + rows.entries * ENTRY,
        objects=STRUCTURE.objects + rows.entries * ENTRY,
        names=STRUCTURE.names + rows.entries * ENTRY,
    )


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
        errors=(*(IMAGE if task.images or (task.body and task.body.files) else BODY), *task.errors),
        params=task.params,
        models=task.models,
        image_first=task.image_first,
        gives=task.gives,
        body=images_body(task.params, *task.images, several=task.several)
        if task.body is None
        else task_body(task.body),
    )
    for task in TASKS
]
