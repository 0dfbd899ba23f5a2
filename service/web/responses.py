"""How answers go out: JSON, problem+json, or an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from service.engine.engine import Answer
from service.errors import Problem
from service.request import RequestContext
from service.tasks.render import ImageFormat


def json_response(body: object, status: int = 200) -> Response:
    """A JSON body from plain data or pydantic models."""
    return Response(to_json(body), status, media_type="application/json")


def problem_response(problem: Problem, *, plain: bool = False) -> Response:
    """RFC 9457 `application/problem+json`, or `{"error": ...}` as the Open Inference Protocol has it."""
    media = "application/json" if plain else "application/problem+json"
    body = {"error": problem.detail} if plain else problem.body()
    response = Response(to_json(body), problem.kind.http, media_type=media)
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, ceil(problem.retry_after)))
    if problem.kind.http == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.kind.http == 408:  # the rest of its body may come or not: the connection is of no more use
        response.headers["Connection"] = "close"
    return response


def image_response(image: bytes, image_format: ImageFormat, **headers: str) -> Response:
    """An encoded image."""
    return Response(image, headers=headers, media_type=f"image/{image_format}")


def results_response(
    context: RequestContext,
    several: Sequence[Answer[Any] | Exception],
    present: Callable[[Answer[Any]], object],
) -> Response:
    """One image's answer unchanged, several as `{"results": [...]}`, each an answer or its own problem.

    Raises:
        Exception: the only image's own error.
    """
    if len(several) == 1:
        (only,) = several
        if isinstance(only, Exception):
            raise only
        return json_response(present(only))
    results: list[object] = []
    for item in several:
        if isinstance(item, Answer):
            results.append(present(item))
            continue
        problem = context.problem_of(item, ": an image")
        results.append(problem.body())
        if context.timing is None:
            context.code = problem.kind.code  # all of them failed
    return json_response({"results": results})
