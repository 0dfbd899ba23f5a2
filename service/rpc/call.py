"""One RPC under way: its id, its deadline and its trace, and its error as a rich status.

Errors follow Google's error model (https://google.aip.dev/193): the status's details hold a
google.rpc.ErrorInfo whose reason is our stable `code`, a BadRequest that names the parameter, and a RetryInfo
where trying again makes sense.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from service.dataplane import Trace
from service.errors import Overloaded, Problem
from service.tracing import RequestSpan

DOMAIN = "lynceus"

DETAIL = 300
"""Characters of a detail, and a fifth as many of a parameter's name, in the trailing metadata."""


class Places:
    """Room for so many calls at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    def enter(self) -> None:
        """
        Raises:
            Overloaded: there is no room.
        """
        if self._taken >= self._most:
            raise Overloaded("this server answers as many calls as it may", 1.0)
        self._taken += 1

    def leave(self) -> None:
        """Makes room for another one."""
        self._taken -= 1


@dataclass(slots=True)
class Call:
    """What the interceptor and a servicer tell each other.

    Attributes:
        request_id: the client's `x-request-id`, or made.
        task: label for the metrics; None for calls that are not counted.
        trace: where the time went, once there is an answer.
        key: what `Access.enter` gave, to be left in the end.
        places: what it entered, to be left in the end.
        is_open: it needs no key, and is neither logged nor traced.
        span: what OpenTelemetry is told of it, where that is wanted.
    """

    request_id: str
    task: str | None
    trace: Trace | None = None
    key: bytes | None = None
    places: Places | None = None
    is_open: bool = False
    span: RequestSpan | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """For the log: the id and, where there is one, the trace's."""
        return self.request_id if self.span is None else f"{self.request_id} (trace {self.span.trace_id})"


current: ContextVar[Call] = ContextVar("call")


def deadline_of(context: grpc.aio.ServicerContext[Any, Any], most: float) -> float:
    """When this call must be done, on the monotonic clock: the server's limit or the client's deadline."""
    left = context.time_remaining()
    return time.monotonic() + (most if left is None else min(most, left))


def trailers(call: Call) -> list[tuple[str, str | bytes]]:
    """What every answer tells: the id and, where there is one, the trace, as HTTP's headers do."""
    found: list[tuple[str, str | bytes]] = [("x-request-id", call.request_id)]
    if call.trace is not None:
        found += [("server-timing", call.trace.timing), ("x-batch-size", str(call.trace.batch_size))]
    return found


def in_trailers(problem: Problem) -> Problem:
    """A problem whose texts fit into the trailing metadata, of which clients take 8 kB by default."""
    parameter = None if problem.parameter is None else problem.parameter[: DETAIL // 5]
    return replace(problem, detail=problem.detail[:DETAIL], parameter=parameter)


def code_of(problem: Problem) -> grpc.StatusCode:
    """The canonical status code of the table's row."""
    return grpc.StatusCode[problem.kind.grpc]


def details_of(problem: Problem, call: Call) -> tuple[str, bytes]:
    """The trailing metadata that carries the rich status."""
    info = details.ErrorInfo(
        reason=problem.kind.code, domain=DOMAIN, metadata={"request_id": call.request_id}
    )
    status = Status(code=code_of(problem).value[0], message=problem.detail)
    if problem.image is not None:
        info.metadata["image"] = problem.image
    if problem.parameter is not None:
        info.metadata["parameter"] = problem.parameter
    status.details.add().Pack(info)
    if problem.parameter is not None:
        violation = details.BadRequest.FieldViolation(field=problem.parameter, description=problem.detail)
        status.details.add().Pack(details.BadRequest(field_violations=[violation]))
    if problem.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(problem.retry_after * 1000))
        status.details.add().Pack(details.RetryInfo(retry_delay=delay))
    return "grpc-status-details-bin", status.SerializeToString()
