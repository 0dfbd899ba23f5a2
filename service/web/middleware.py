"""Request middleware: id, timing headers, metrics, access log, error fallback.

Plain ASGI and no framework's middleware class: it runs for every request, and costs some microseconds.
"""

from __future__ import annotations

import asyncio
import json
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import Service
from service.errors import problem_of
from service.request import RequestContext, request_id
from service.telemetry.tracing import RequestSpan, Tracing
from service.web.context import KEY

logger = logging.getLogger(__name__)

UNTRACED = ("/metrics", "/v2/health/")
"""Paths that probes and scrapers request: no spans."""


class RequestMiddleware:
    """Wraps the application; passes on whatever is not HTTP."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._log = service.log
        self._tracing = service.tracing
        self._limit = service.settings.timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = scope[KEY] = RequestContext("http", request_id(_given_id(scope)))
        context.deadline = context.started + self._limit
        if self._tracing is not None and not scope["path"].startswith(UNTRACED):
            context.span = _span(self._tracing, scope)
        answered = False
        status = 499  # the client had disconnected

        async def send_with_headers(message: Message) -> None:
            nonlocal answered, status
            if message["type"] == "http.response.start":
                answered, status = True, message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(context, status)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            context.code = "cancelled"
            if not context.client_gone:
                raise
        except Exception as exc:
            context.code = problem_of(exc).kind.code
            if not answered:  # else the application's own handler has logged and answered it
                logger.exception("request %s failed", context.name)
                await _answer(send_with_headers, exc)
        finally:
            if context.span is not None:
                route = getattr(scope.get("route"), "path", None)
                context.span.end_http(scope["method"], route, status, context.code, context.request_id)
            self._log.finish(context, f"{scope['method']} {scope['path']}", str(status))


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return str(value, "latin-1")
    return None


def _span(tracing: Tracing, scope: Scope) -> RequestSpan:
    return tracing.http(
        scope["method"],
        scope["path"],
        scope["scheme"],
        scope["http_version"],
        scope["headers"],
        scope["server"],
        scope["client"],
    )


def _headers(context: RequestContext, status: int) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", context.request_id.encode("ascii"))]
    if status == 408:  # the rest of its body may come or not: the connection is of no more use (RFC 9110)
        headers.append((b"connection", b"close"))
    timing = context.timing
    if timing is not None:
        headers.append((b"server-timing", timing.header.encode("ascii")))
        headers.append((b"x-batch-size", b"%d" % timing.batch_size))
    return headers


async def _answer(send: Send, exc: Exception) -> None:
    problem = problem_of(exc)
    body = json.dumps(problem.body()).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": problem.kind.http, "headers": headers})
    await send({"type": "http.response.body", "body": body})
