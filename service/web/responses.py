"""How answers go out: JSON, problem+json, or an image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Final

from fastapi import Request, Response
from pydantic_core import to_json

from service.engine.engine import Answer
from service.errors import INTERNAL, Problem, problem_of
from service.tasks.render import ImageFormat
from service.web.context import context_of
from service.web.negotiation import weighted

logger = logging.getLogger(__name__)

FORMATS: Final[dict[str, ImageFormat]] = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "image/*": "jpeg",
}


def json_response(body: object, status: int = 200) -> Response:
    """A JSON body from plain data or pydantic models."""
    return Response(to_json(body), status, media_type="application/json")


def problem_response(problem: Problem) -> Response:
    """RFC 9457 `application/problem+json`."""
    response = Response(to_json(problem.body()), problem.kind.http, media_type="application/problem+json")
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, ceil(problem.retry_after)))
    if problem.kind.http == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def image_response(image: bytes, image_format: ImageFormat) -> Response:
    """An encoded image."""
    return Response(image, media_type=f"image/{image_format}")


def results_response(
    request: Request, several: Sequence[Answer[Any] | Exception], present: Callable[[Answer[Any]], object]
) -> Response:
    """One image's answer unchanged, several as `{"results": [...]}`, each an answer or its own problem.

    Raises:
        Exception: the only image's own error.
    """
    context = context_of(request)
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
        problem = problem_of(item)
        if problem.kind is INTERNAL:
            logger.error("request %s: an image failed", context.name, exc_info=item)
        results.append(problem.body())
        if context.timing is None:
            context.code = problem.kind.code  # all of them failed
    return json_response({"results": results})


def wanted_image(request: Request, *, default: ImageFormat | None = None) -> ImageFormat | None:
    """The image format that `Accept` prefers, or None for JSON; ties go to what stands first.

    Args:
        request: of it, the Accept header.
        default: what `*/*` or no header means.
    """
    best: tuple[float, ImageFormat | None] = (0.0, default)
    for kind, weight in weighted(request.headers.get("accept", "*/*")):
        if kind in FORMATS:
            choice: ImageFormat | None = FORMATS[kind]
        elif kind in ("application/json", "application/*"):
            choice = None
        elif kind == "*/*":
            choice = default
        else:
            continue
        if weight > best[0]:
            best = (weight, choice)
    return best[1]
