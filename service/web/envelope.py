"""What stands around every request: its id, its timing headers, its metrics, its last line of defence.

Plain ASGI and no framework's middleware class: it runs for every request, and costs some microseconds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import Access
from service.errors import problem_of
from service.journal import Journal
from service.metrics import Metrics
from service.tracing import RequestSpan, Tracing
from service.web.call import KEY, Call

logger = logging.getLogger(__name__)

ID = re.compile(rb"[\x21-\x7e]{1,128}")
UNTRACED = ("/metrics", "/v2/health/")
"""Asked all the time by machines, and told of by nobody."""


class Envelope:
    """Wraps the application; passes on whatever is not HTTP.

    Args:
        app: the application.
        metrics: where requests are counted.
        journal: where they are logged.
        access: who may ask, and how often at once.
        tracing: where spans go, if anywhere.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, journal: Journal, access: Access, tracing: Tracing | None
    ) -> None:
        self._app = app
        self._journal = journal
        self._access = access
        self._tracing = tracing
        self._requests = metrics.requests
        self._seconds = metrics.request_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = scope[KEY] = Call(_request_id(scope))
        if self._tracing is not None and not scope["path"].startswith(UNTRACED):
            call.span = _span(self._tracing, scope)
        answered = False
        status = 499  # nobody was there to be answered

        async def send_with_headers(message: Message) -> None:
            nonlocal answered, status
            if message["type"] == "http.response.start":
                answered, status = True, message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(call, status)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            call.code = "cancelled"
            if not call.gone:
                raise
        except Exception as exc:
            call.code = problem_of(exc).kind.code
            if not answered:  # else the application's own handler has logged and answered it
                logger.exception("request %s failed", call.name)
                await _answer(send_with_headers, exc)
        finally:
            if call.body is not None:
                call.body.__exit__()
            if call.key is not None:
                self._access.leave(call.key)
            trace_id = None
            if call.span is not None:
                trace_id = call.span.trace_id
                route = getattr(scope.get("route"), "path", None)
                call.span.end_http(scope["method"], route, status, call.code, call.request_id)
            if self._journal.enabled:
                what, seconds = f"{scope['method']} {scope['path']}", time.monotonic() - call.started
                self._journal.record(
                    "http", what, str(status), call.code, call.request_id, seconds, call.trace, trace_id
                )
            if call.task is not None:
                self._requests.labels(call.task, "http", call.code).inc()
                self._seconds.labels(call.task, "http").observe(time.monotonic() - call.started)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex


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


def _headers(call: Call, status: int) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", call.request_id.encode("ascii"))]
    if status == 408:  # the rest of its body may come or not: the connection is of no more use (RFC 9110)
        headers.append((b"connection", b"close"))
    trace = call.trace
    if trace is not None:
        headers.append((b"server-timing", trace.timing.encode("ascii")))
        headers.append((b"x-batch-size", b"%d" % trace.batch_size))
    return headers


async def _answer(send: Send, exc: Exception) -> None:
    problem = problem_of(exc)
    body = json.dumps(problem.body()).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": problem.kind.http, "headers": headers})
    await send({"type": "http.response.body", "body": body})
