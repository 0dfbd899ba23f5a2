"""The HTTP transport: FastAPI, its routes, and the one map from errors to answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from models.errors import ECHO, ModelError, ParameterInvalid
from service import __version__
from service.app import Service
from service.errors import INTERNAL, MethodNotAllowed, NotFound, ServiceError, problem_of
from service.tasks import TASKS
from service.web import jobs, models
from service.web.context import ClientGone, State, authorize, context_of
from service.web.middleware import RequestMiddleware
from service.web.openapi import document
from service.web.responses import problem_response
from service.web.tasks import make_router
from service.web.v2 import routes as v2
from service.web.v2.codec import error_response

logger = logging.getLogger(__name__)

METHODS = ("GET", "POST", "DELETE")
REQUEST_HEADERS = (
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
RESPONSE_HEADERS = (
    "Content-Encoding",
    "Inference-Header-Content-Length",
    "Location",
    "Retry-After",
    "Server-Timing",
    "X-Batch-Size",
    "X-Request-ID",
)
"""Headers that it may read, besides those that browsers always show."""

_COUNTED = {f"/v1/{task.path}": task.name for task in TASKS} | {jobs.SUBMIT: jobs.TASK}
"""Label by path, for requests that are refused before their handler runs."""


def make_app(service: Service) -> ASGIApp:
    """The whole HTTP API as one ASGI application; the caller owns the life of the service."""
    app = FastAPI(
        title="Lynceus", summary="Batched vision models behind typed endpoints.", version=__version__
    )
    app.state.service = service
    for exception in (ModelError, ServiceError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(exception, _on_error)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_api_route("/metrics", _metrics, include_in_schema=False)
    for router in (make_router(), jobs.router, models.router, v2.router):
        app.include_router(router, dependencies=[Depends(authorize)])
    app.include_router(v2.health)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    for task in (*_COUNTED.values(), v2.TASK):  # created at the start, so that a rate sees its first rise
        service.metrics.requests.labels(task, "http", INTERNAL.code)
    origins = service.settings.cors_origins
    return RequestMiddleware(_with_cors(app, origins) if origins else app, service)


def _with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Allows pages of these origins (https://fetch.spec.whatwg.org/#http-cors-protocol).

    A key travels in a header that the page sets itself, never in a cookie: so no credentials.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=REQUEST_HEADERS,
        expose_headers=RESPONSE_HEADERS,
    )


async def _metrics(service: State) -> Response:
    """Prometheus text."""
    text = await asyncio.to_thread(service.metrics.render)  # reads the files of every worker
    return Response(text, media_type=service.metrics.content_type)


async def _on_error(request: Request, exc: Exception) -> Response:
    problem = problem_of(_translated(request, exc))
    context = context_of(request)
    context.code = problem.kind.code
    path = request.url.path
    is_v2 = path == "/v2" or path.startswith("/v2/")
    if context.task is None:  # refused before its handler ran
        if path in _COUNTED:
            context.task = _COUNTED[path]
        elif is_v2 and path.endswith("/infer"):
            context.task = v2.TASK
    if problem.kind is INTERNAL:
        logger.error("request %s failed", context.name, exc_info=exc)
    return error_response(problem) if is_v2 else problem_response(problem)


async def _on_client_gone(request: Request, exc: Exception) -> Response:
    """No client reads this answer; it only ends the request without an error in the log."""
    context_of(request).code = "cancelled"
    return Response(status_code=499)


def _translated(request: Request, exc: Exception) -> Exception:
    """Maps the frameworks' own errors to those of `service.errors`."""
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
