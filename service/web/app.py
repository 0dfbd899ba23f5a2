"""The HTTP transport: one ASGI application of routes that are values, and the one map from errors to answers.

No framework stands on the way of a request: its path is looked up, its key checked, its route called. Around
that: id, timing headers, metrics, access log, traces, CORS.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import ECHO
from service.app import Service
from service.errors import INTERNAL, MethodNotAllowed, NotFound
from service.request import RequestContext, request_id
from service.tasks import TASKS
from service.web import jobs, models, pages, tasks
from service.web.request import Request
from service.web.responses import problem_response
from service.web.route import Route, is_plain
from service.web.v2 import routes as v2

KEY = "lynceus.context"
ROUTES = (*tasks.ROUTES, *jobs.ROUTES, *models.ROUTES, *v2.ROUTES, *pages.ROUTES)
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
    *(name for task in TASKS for name in task.gives),
)
"""Headers that it may read, besides those that browsers always show."""
UNTRACED = ("/metrics", "/v2/health/")
"""Paths that probes and scrapers request: no spans."""


class Application:
    """The whole HTTP API; the caller owns the life of the service.

    Args:
        service: that answers.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._limit = service, service.settings.timeout_seconds
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[re.Pattern[str], dict[str, Route]] = {}
        for route in ROUTES:
            if "{" in route.path:
                self._patterns.setdefault(compile_path(route.path)[0], {})[route.method] = route
            else:
                self._exact.setdefault(route.path, {})[route.method] = route
            if route.task is not None:  # created at the start, so that a rate sees its first rise
                service.metrics.requests.labels(route.task, "http", INTERNAL.code)
        self._respond: ASGIApp = self._answered
        if origins := service.settings.cors_origins:
            # a key travels in a header that the page sets itself, never in a cookie: so no credentials
            self._respond = CORSMiddleware(
                self._answered,
                allow_origins=origins,
                allow_methods=METHODS,
                allow_headers=REQUEST_HEADERS,
                expose_headers=RESPONSE_HEADERS,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = scope[KEY] = RequestContext("http", request_id(_given_id(scope)))
        context.deadline = context.started + self._limit
        tracing = self._service.tracing
        if tracing is not None and not scope["path"].startswith(UNTRACED):
            context.span = tracing.http(scope)
        answered = False
        status = 499  # the client had disconnected

        async def send_with_headers(message: Message) -> None:
            nonlocal answered, status
            if message["type"] == "http.response.start":
                answered, status = True, message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(context)]
            await send(message)

        try:
            await self._respond(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            context.code = "cancelled"
            if not context.client_gone:
                raise
        except Exception as exc:  # of what sends the answer
            response = self._refusal(scope, exc)
            if not answered:
                await response(scope, receive, send_with_headers)
        finally:
            if context.span is not None:
                route = scope["route"].path if "route" in scope else None
                context.span.end_http(scope["method"], route, status, context.code, context.request_id)
            self._service.log.finish(context, f"{scope['method']} {scope['path']}", str(status))

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except Exception as exc:
            response = self._refusal(scope, exc)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path, method, context = scope["path"], scope["method"], scope[KEY]
        request = Request(scope, receive, self._service, context)
        methods, scope["path_params"] = self._find(path)
        if not methods:
            if self._find(path.rstrip("/"))[0]:
                return RedirectResponse(request.url.replace(path=path.rstrip("/")))
            raise NotFound(f"there is no {path[:ECHO]}; /docs lists what there is")
        context.task = next(iter(methods.values())).task
        route = methods.get("GET" if method == "HEAD" else method)  # the server leaves out the body of HEAD
        if route is None:
            allowed = [*methods, *(["HEAD"] if "GET" in methods else [])]
            raise MethodNotAllowed(f"{path[:ECHO]} does not answer {method[:ECHO]}", allowed)
        scope["route"] = route
        if not route.is_open:
            request.authorize()
        if route.task is not None:
            request.begin()
        return await route.handle(request)

    def _find(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]]:
        """The routes of a path by their methods, and the texts in it by name."""
        if (methods := self._exact.get(path)) is not None:
            return methods, {}
        for pattern, methods in self._patterns.items():
            if (match := pattern.match(path)) is not None:
                return methods, match.groupdict()
        return {}, {}

    def _refusal(self, scope: Scope, exc: Exception) -> Response:
        context: RequestContext = scope[KEY]
        if isinstance(exc, ClientDisconnect):  # no client reads this answer
            context.code = "cancelled"
            return Response(status_code=499)
        problem = context.problem_of(exc)
        context.code = problem.kind.code
        response = problem_response(problem, plain=is_plain(scope["path"]))
        if isinstance(exc, MethodNotAllowed):
            response.headers["Allow"] = exc.allowed
        return response


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return str(value, "latin-1")
    return None


def _headers(context: RequestContext) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", context.request_id.encode("ascii"))]
    timing = context.timing
    if timing is not None:
        headers.append((b"server-timing", timing.header.encode("ascii")))
        headers.append((b"x-batch-size", b"%d" % timing.batch_size))
    headers += [
        (name.lower().encode("ascii"), value.encode("ascii")) for name, value in context.headers.items()
    ]
    return headers
