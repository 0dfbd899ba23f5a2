"""What a route knows of its request: the service, the context, the deadline, and the client's presence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from models.errors import ParameterInvalid
from service.app import Service
from service.request import RequestContext

KEY = "lynceus.context"


class ClientGone(Exception):
    """The client disconnected before its body was complete; it gets no answer."""


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


State = Annotated[Service, Depends(_service)]


def service_of(request: Request) -> Service:
    """The service that answers this request."""
    service: Service = request.app.state.service
    return service


def context_of(request: Request) -> RequestContext:
    """The context that the middleware made for this request."""
    context: RequestContext = request.scope[KEY]
    return context


def begin(request: Request, task: str) -> RequestContext:
    """The context of a request that is counted from now on as one of a task, with its deadline.

    Raises:
        ParameterInvalid: `X-Timeout-Ms` is not a positive number.
    """
    context = context_of(request)
    context.task = task
    context.deadline = _deadline(request, service_of(request).settings.timeout_seconds)
    return context


async def authorize(request: Request, service: State) -> None:
    """What every route but the open ones depends on: a key, where keys are set.

    Raises:
        Unauthenticated: there is none that fits.
        KeyBusy: it has as many requests under way as it may.
    """
    if service.auth.required:
        headers = request.headers
        key = service.auth.acquire(headers.get("authorization"), headers.get("x-api-key"))
        context_of(request).key = key


@contextlib.asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancels the request when its client disconnects, so that its image leaves the queue. Needs a read body.

    The cancellation ends in the middleware, which distinguishes it from the server's own by `client_gone`.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (a handler always runs in a task)
    context = context_of(request)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        context.client_gone = True
        task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _deadline(request: Request, limit: float) -> float:
    """On the monotonic clock: the server's limit or `X-Timeout-Ms`, whichever is sooner."""
    stated = request.headers.get("x-timeout-ms")
    if stated is not None:
        try:
            seconds = float(stated) / 1000
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise ParameterInvalid("X-Timeout-Ms", "X-Timeout-Ms must be a positive number of milliseconds")
        limit = min(limit, seconds)
    return context_of(request).started + limit
