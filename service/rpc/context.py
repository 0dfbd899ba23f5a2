"""One RPC under way: its deadline, its trailers, and its error as a rich status.

Errors follow Google's error model (https://google.aip.dev/193): the status's details hold a
google.rpc.ErrorInfo whose reason is the stable `code`, a BadRequest that names the parameter, and a RetryInfo
where trying again makes sense.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from service.errors import Problem
from service.request import RequestContext

DOMAIN = "lynceus"

DETAIL = 300
"""Characters of a detail, and a fifth as many of a parameter's name, in the trailing metadata."""


Call: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

current: ContextVar[RequestContext] = ContextVar("context")


def deadline_of(call: Call, limit: float) -> float:
    """When this call must be done, on the monotonic clock: the server's limit or the client's deadline."""
    left = call.time_remaining()
    return time.monotonic() + (limit if left is None else min(limit, left))


def trailers(context: RequestContext) -> list[tuple[str, str | bytes]]:
    """What every answer carries: the id and, where a model answered, the timing, as HTTP's headers do."""
    found: list[tuple[str, str | bytes]] = [("x-request-id", context.request_id)]
    if (timing := context.timing) is not None:
        found += [("server-timing", timing.header), ("x-batch-size", str(timing.batch_size))]
    found += [(name.lower(), value) for name, value in context.headers.items()]
    return found


def in_trailers(problem: Problem) -> Problem:
    """A problem whose texts fit into the trailing metadata, of which clients take 8 kB by default."""
    parameter = None if problem.parameter is None else problem.parameter[: DETAIL // 5]
    return replace(problem, detail=problem.detail[:DETAIL], parameter=parameter)


def details_of(problem: Problem, context: RequestContext) -> tuple[str, bytes]:
    """The trailing metadata that carries the rich status."""
    info = details.ErrorInfo(
        reason=problem.kind.code, domain=DOMAIN, metadata={"request_id": context.request_id}
    )
    status = Status(code=grpc.StatusCode[problem.kind.grpc].value[0], message=problem.detail)
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
