"""One HTTP request under way: its id, its deadline, its trace, and whether its client is still there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import Request

from models.errors import ParameterInvalid
from service.dataplane import Trace
from service.memory import BodyReservation
from service.tracing import RequestSpan

KEY = "lynceus.call"


class ClientGone(Exception):
    """The client hung up before its body was complete; nobody is left to be told."""


@dataclass(slots=True)
class Call:
    """What the envelope and the routes tell each other.

    Attributes:
        request_id: the client's `X-Request-ID`, or made.
        task: label for the metrics; None for requests that are not counted.
        code: `ok` or an error's code.
        trace: where the time went, once there is an answer.
        gone: the client hung up while its answer was being made.
        key: what `Access.enter` gave, to be left in the end.
        span: what OpenTelemetry is told of it, where that is wanted.
        body: the memory of its body, given back when the request ends.
    """

    request_id: str
    task: str | None = None
    code: str = "ok"
    trace: Trace | None = None
    gone: bool = False
    key: bytes | None = None
    span: RequestSpan | None = None
    body: BodyReservation | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """For the log: the id and, where there is one, the trace's."""
        return self.request_id if self.span is None else f"{self.request_id} (trace {self.span.trace_id})"


def call_of(request: Request) -> Call:
    """The call that the envelope made for this request."""
    call: Call = request.scope[KEY]
    return call


def task_of(request: Request) -> str:
    """The label that a request's route is counted under."""
    return label_of(request.url.path)


def label_of(path: str) -> str:
    """The label that a route is counted under: `/v1/faces/verify` is ``faces_verify``."""
    return path.removeprefix("/v1/").replace("/", "_")


def begin(request: Request) -> Call:
    """The call of this request, counted from now on under its route's label."""
    call = call_of(request)
    call.task = task_of(request)
    return call


def deadline_of(request: Request, most: float) -> float:
    """When this request must be done, on the monotonic clock: the server's limit or `X-Timeout-Ms`.

    Raises:
        ParameterInvalid: the header is not a positive number.
    """
    stated = request.headers.get("x-timeout-ms")
    if stated is not None:
        try:
            seconds = float(stated) / 1000
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise ParameterInvalid("X-Timeout-Ms", "X-Timeout-Ms must be a positive number of milliseconds")
        most = min(most, seconds)
    return call_of(request).started + most


@contextlib.asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancels the request when its client hangs up, so that its picture leaves the queue. Needs a read body.

    The cancellation ends in the envelope, which tells it from a cancellation of the server's by `Call.gone`.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (a handler always runs in a task)
    call = call_of(request)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        call.gone = True
        task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watcher.cancel()
