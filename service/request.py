"""One request under way on any transport: id, deadline and outcome; and its end, recorded once."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, TextIO

from pydantic_core import to_json

from service.engine.memory import BodyReservation
from service.errors import INTERNAL, Problem, problem_of
from service.host.auth import Auth
from service.telemetry.metrics import Metrics
from service.telemetry.timing import Timing
from service.telemetry.tracing import RequestSpan

logger = logging.getLogger(__name__)

ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class RequestContext:
    """State shared by a transport and the handling of its request.

    Attributes:
        transport: label of metrics and logs.
        request_id: the client's, or a new one.
        task: label of metrics; None for requests that are not counted.
        deadline: on the monotonic clock; infinity before it is known.
        code: ``ok`` or an error's code.
        timing: durations of the stages, once there is an answer.
        client_gone: the client disconnected before its answer was complete.
        key: the digest of its API key, while it counts as one of that key's requests.
        span: its OpenTelemetry span, where traces are on.
        body: the memory of its body, until the request ends.
        headers: of the good answer, besides those of every one; over gRPC trailing metadata.
    """

    transport: Literal["http", "grpc"]
    request_id: str
    task: str | None = None
    deadline: float = float("inf")
    code: str = "ok"
    timing: Timing | None = None
    client_gone: bool = False
    key: bytes | None = None
    span: RequestSpan | None = None
    body: BodyReservation | None = None
    headers: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """For the log: the id and, where there is one, the trace's."""
        return self.request_id if self.span is None else f"{self.request_id} (trace {self.span.trace_id})"

    def problem_of(self, exc: BaseException, what: str = "") -> Problem:
        """An error as clients see it; an internal one is logged with its trace, and `what` failed."""
        problem = problem_of(exc)
        if problem.kind is INTERNAL:
            logger.error("request %s%s failed", self.name, what, exc_info=exc)
        return problem

    def record(self, timing: Timing) -> None:
        """An answer's timing; of several images that of the slowest."""
        if self.timing is None or timing.total > self.timing.total:
            self.timing = timing


def request_id(given: str | None) -> str:
    """The client's id if it is printable and of at most 128 characters, else a new one."""
    return given if given is not None and ID.fullmatch(given) else next(_new_ids)


def _random_ids() -> Iterator[str]:
    """Of 128 random bits each, many at once: the system is asked without the interpreter's lock, which a
    model's thread may then keep."""
    while True:
        block = os.urandom(16 * 256).hex()
        yield from (block[at : at + 32] for at in range(0, len(block), 32))


_new_ids = _random_ids()


class RequestLog:
    """Records every request at its end, the same for every transport.

    Args:
        metrics: where it is counted.
        auth: whose key it used.
        enabled: whether there is an access log: a line of JSON for each request, never an image's content.
        out: where to; the standard output by default, one write a line, so that workers do not mix theirs.
    """

    def __init__(self, metrics: Metrics, auth: Auth, *, enabled: bool, out: TextIO | None = None) -> None:
        # their values are few: looked up once
        self._requests = lru_cache(maxsize=None)(metrics.requests.labels)
        self._seconds = lru_cache(maxsize=None)(metrics.request_seconds.labels)
        self._auth = auth
        self._enabled = enabled
        self._out = out or sys.stdout

    def finish(self, context: RequestContext, what: str, status: str, *, logged: bool = True) -> None:
        """The answer has been sent, or its client has disconnected.

        Args:
            context: of the request.
            what: method and path without its query, or the full name of the RPC.
            status: of the answer.
            logged: whether it stands in the access log.
        """
        if context.body is not None:
            context.body.__exit__()
        if context.key is not None:
            self._auth.release(context.key)
        seconds = time.monotonic() - context.started
        if logged and self._enabled:
            self._write(context, what, status, seconds)
        if context.task is not None:
            self._requests(context.task, context.transport, context.code).inc()
            self._seconds(context.task, context.transport).observe(seconds)

    def _write(self, context: RequestContext, what: str, status: str, seconds: float) -> None:
        line = (
            f'{{"time":"{_now()}","transport":"{context.transport}","request":{_quoted(what)},'
            f'"status":"{status}","code":"{context.code}","request_id":{_quoted(context.request_id)},'
            f'"ms":{round(seconds * 1000, 2)}'
        )
        if (timing := context.timing) is not None:
            line += (
                f',"decode_ms":{round(timing.decode * 1000, 2)},"queue_ms":{round(timing.queue * 1000, 2)},'
                f'"compute_ms":{round(timing.compute * 1000, 2)},"batch_size":{timing.batch_size}'
            )
        if context.span is not None:
            line += f',"trace_id":"{context.span.trace_id}"'
        try:
            self._out.write(line + "}\n")
            self._out.flush()
        except OSError:  # a full disk or a closed pipe must not cost an answer
            self._enabled = False


def _quoted(text: str) -> str:
    return to_json(text).decode()


def _now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    seconds, fraction = divmod(time.time(), 1)
    return f"{_second(int(seconds))}.{int(fraction * 1000):03}+00:00"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
