"""The HTTP door: FastAPI, its routes, and the one map from errors to answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from models.errors import ECHO, ModelError, ParameterInvalid
from service.errors import INTERNAL, MethodNotAllowed, NotFound, ServiceError, problem_of
from service.journal import Journal
from service.web import classify, detect, faces, jobs, models, stylize, v2
from service.web.answers import problem_answer
from service.web.call import ClientGone, call_of, label_of, task_of
from service.web.document import document
from service.web.envelope import Envelope
from service.web.house import Home, House, admit
from service.web.v2_codec import error_answer

logger = logging.getLogger(__name__)

METHODS = ("GET", "POST", "DELETE")
ASKED = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Inference-Header-Content-Length",
    "Traceparent",
    "Tracestate",
    "X-API-Key",
    "X-Request-ID",
    "X-Timeout-Ms",
)
"""Headers that a page of another origin may send."""
TOLD = (
    "Content-Encoding",
    "Inference-Header-Content-Length",
    "Location",
    "Retry-After",
    "Server-Timing",
    "X-Batch-Size",
    "X-Request-ID",
)
"""Headers that it may read, besides those that browsers always show."""

_COUNTED = {
    route.path
    for module in (classify, detect, faces, jobs, stylize)
    for route in module.router.routes
    if isinstance(route, APIRoute) and "POST" in (route.methods or ())
}


def make_app(house: House) -> ASGIApp:
    """The whole HTTP API as one ASGI application; the caller owns the life of what stands behind it."""
    app = FastAPI(
        title="Lynceus",
        summary="Batched vision models behind typed endpoints.",
        version="1",
    )
    app.state.house = house
    for exception in (ModelError, ServiceError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(exception, _on_error)
    app.add_exception_handler(ClientGone, _on_gone)
    app.add_api_route("/metrics", _metrics, include_in_schema=False)
    for module in (classify, detect, faces, stylize, jobs, models, v2):
        app.include_router(module.router, dependencies=[Depends(admit)])
    app.include_router(v2.health)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    for task in (*map(label_of, _COUNTED), v2.TASK):  # there from the start, or its first rise is none
        house.metrics.requests.labels(task, "http", INTERNAL.code)
    settings = house.settings
    inner = _for_pages(app, settings.cors_origins) if settings.cors_origins else app
    return Envelope(inner, house.metrics, Journal(settings.access_log), house.access, house.tracing)


def _for_pages(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Lets pages of these origins ask (https://fetch.spec.whatwg.org/#http-cors-protocol).

    A key travels in a header that the page sets itself, never in a cookie: so no credentials.
    """
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=METHODS, allow_headers=ASKED, expose_headers=TOLD
    )


async def _metrics(house: Home) -> Response:
    """Prometheus text."""
    text = await asyncio.to_thread(house.metrics.render)  # reads the files of every worker
    return Response(text, media_type=house.metrics.content_type)


async def _on_error(request: Request, exc: Exception) -> Response:
    problem = problem_of(_translated(request, exc))
    call = call_of(request)
    call.code = problem.kind.code
    path = request.url.path
    protocol = path == "/v2" or path.startswith("/v2/")
    if call.task is None:  # refused before its handler ran
        if path in _COUNTED:
            call.task = task_of(request)
        elif protocol and path.endswith("/infer"):
            call.task = v2.TASK
    if problem.kind is INTERNAL:
        logger.error("request %s failed", call.name, exc_info=exc)
    return error_answer(problem) if protocol else problem_answer(problem)


async def _on_gone(request: Request, exc: Exception) -> Response:
    """Nobody reads this answer; it only ends the request without an error in the log."""
    call_of(request).code = "cancelled"
    return Response(status_code=499)


def _translated(request: Request, exc: Exception) -> Exception:
    """The frameworks' own errors as ours, so that one table answers for all."""
    if isinstance(exc, RequestValidationError):
        first: dict[str, Any] = dict(exc.errors()[0])
        name = str(first["loc"][-1])[:ECHO]
        return ParameterInvalid(name, f"{name}: {first['msg']}")
    if isinstance(exc, HTTPException):
        if exc.status_code == 404:
            return NotFound(f"there is no {request.url.path[:ECHO]}; /docs lists what there is")
        if exc.status_code == 405:
            return MethodNotAllowed(f"{request.url.path[:ECHO]} does not answer {request.method[:ECHO]}")
    return exc
