"""How answers go out: JSON, problem+json, or a picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Literal, TypeVar

from fastapi import Request, Response
from pydantic_core import to_json

from service.dataplane import Answer
from service.errors import INTERNAL, Problem, problem_of
from service.web.call import call_of
from service.web.compression import CHOICES

logger = logging.getLogger(__name__)

T = TypeVar("T")
Format = Literal["jpeg", "png", "webp"]
FORMATS: dict[str, Format] = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "image/*": "jpeg",
}


def json_answer(body: object, status: int = 200) -> Response:
    """A JSON body from plain data or pydantic models."""
    return Response(to_json(body), status, media_type="application/json")


def problem_answer(problem: Problem) -> Response:
    """RFC 9457 `application/problem+json`."""
    response = Response(to_json(problem.body()), problem.kind.http, media_type="application/problem+json")
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, ceil(problem.retry_after)))
    if problem.kind.http == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def picture_answer(picture: bytes, kind: Format) -> Response:
    """An encoded picture."""
    return Response(picture, media_type=f"image/{kind}")


def answers(
    request: Request, several: Sequence[Answer[T] | Exception], shape: Callable[[Answer[T]], Any]
) -> Response:
    """One image's result as it is, several as `{"results": [...]}`, each a result or its own problem.

    Raises:
        Exception: the only image's own error.
    """
    call = call_of(request)
    traces = [answer.trace for answer in several if isinstance(answer, Answer)]
    if traces:
        call.trace = max(traces, key=lambda trace: trace.queue + trace.compute)
    if len(several) == 1:
        (only,) = several
        if isinstance(only, Exception):
            raise only
        return json_answer(shape(only))
    results: list[Any] = []
    for item in several:
        if isinstance(item, Answer):
            results.append(shape(item))
            continue
        problem = problem_of(item)
        if problem.kind is INTERNAL:
            logger.error("request %s: an image failed", call.request_id, exc_info=item)
        results.append(problem.body())
        if not traces:
            call.code = problem.kind.code  # nothing went well
    return json_answer({"results": results})


def wanted_picture(request: Request, *, by_default: Format | None = None) -> Format | None:
    """The picture format that `Accept` prefers, or None for JSON.

    Args:
        request: of it, the Accept header (RFC 9110, with q values; ties go to what stands first).
        by_default: what `*/*` or no header means.
    """
    best: tuple[float, Format | None] = (0.0, by_default)
    for part in request.headers.get("accept", "*/*").split(",", CHOICES)[:CHOICES]:
        kind, *parameters = (piece.strip().lower() for piece in part.split(";", CHOICES)[:CHOICES])
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if kind in FORMATS:
            choice: Format | None = FORMATS[kind]
        elif kind in ("application/json", "application/*"):
            choice = None
        elif kind == "*/*":
            choice = by_default
        else:
            continue
        if weight > best[0]:
            best = (weight, choice)
    return best[1]
