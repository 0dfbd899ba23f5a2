"""The access log: a line of JSON for each request, if enabled. Never an image's content."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TextIO

from service.telemetry.timing import Timing


class AccessLog:
    """Writes requests as they end.

    Args:
        enabled: whether anything is written.
        out: where to; the standard output by default, one write a line, so that workers do not mix theirs.
    """

    def __init__(self, enabled: bool, out: TextIO | None = None) -> None:
        self.enabled = enabled
        self._out = out or sys.stdout

    def record(
        self,
        transport: str,
        what: str,
        status: str,
        code: str,
        request_id: str,
        seconds: float,
        timing: Timing | None,
        trace_id: str | None = None,
    ) -> None:
        """One request.

        Args:
            transport: ``http`` or ``grpc``.
            what: method and path without its query, or the full name of the RPC.
            status: of the answer.
            code: ``ok`` or an error's code.
            request_id: as sent to the client.
            seconds: from its first byte to its answer.
            timing: durations of the stages, if a model ran.
            trace_id: of its OpenTelemetry span, if there is one.
        """
        if not self.enabled:
            return
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "transport": transport,
            "request": what,
            "status": status,
            "code": code,
            "request_id": request_id,
            "ms": round(seconds * 1000, 2),
        }
        if timing is not None:
            line |= {
                "decode_ms": round(timing.decode * 1000, 2),
                "queue_ms": round(timing.queue * 1000, 2),
                "compute_ms": round(timing.compute * 1000, 2),
                "batch_size": timing.batch_size,
            }
        if trace_id is not None:
            line["trace_id"] = trace_id
        try:
            self._out.write(json.dumps(line) + "\n")
            self._out.flush()
        except OSError:  # a full disk or a closed pipe must not cost an answer
            self.enabled = False
