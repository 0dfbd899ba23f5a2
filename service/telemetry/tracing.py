"""OpenTelemetry traces, optional: a span per request, with a child span per stage.

Stages are recorded after they have ended, with the times that were measured for the metrics anyway, so an
image takes the same path with traces and without. Spans carry names, numbers and sizes, never an image's
content, a query or a key. Exporting happens in a thread of its own with a bounded queue: a collector that is
slow or gone costs spans, never an answer. Names follow OpenTelemetry's semantic conventions for HTTP and RPC
(https://opentelemetry.io/docs/specs/semconv/), custom ones begin with ``lynceus.``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

Value = str | int | float
FLUSH: Final = 5.0
"""Longest in seconds that the end of the process waits for the collector."""

METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""gRPC statuses that are the server's errors; others are the client's and leave a server's span unset."""

PACKAGES: Final = {
    "http/protobuf": ("otlp_proto_http", "opentelemetry-exporter-otlp-proto-http"),
    "grpc": ("otlp_proto_grpc", "opentelemetry-exporter-otlp-proto-grpc"),
}


class RequestSpan:
    """The span of one request, from its first byte to its answer; the stages below find it by the context."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        contexts.attach(trace.set_span_in_context(span, contexts.Context()))

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, as logs and trace viewers write it."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def end_http(self, method: str, route: str | None, status: int, code: str, request_id: str) -> None:
        """The answer has been sent.

        Args:
            method: of the request.
            route: the route's template, if one was found.
            status: of the answer.
            code: ``ok`` or an error's code.
            request_id: as sent to the client.
        """
        found: dict[str, Value] = {"http.response.status_code": status}
        if route is not None:
            found["http.route"] = route
            self._span.update_name(f"{_method(method)} {route}")
        self._end(found, code, request_id, fault=status >= 500)

    def end_rpc(self, status: str, code: str, request_id: str) -> None:
        """The answer, or a stream's last one, has been sent; `status` is gRPC's by name."""
        self._end({"rpc.response.status_code": status}, code, request_id, fault=status in FAULTS)

    def _end(self, found: dict[str, Value], code: str, request_id: str, *, fault: bool) -> None:
        found |= {"lynceus.request_id": request_id, "lynceus.code": code}
        if fault:
            found["error.type"] = code
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attributes(found)
        self._span.end()


class Tracing:
    """Where spans are begun and where they go.

    The sampler is that of `OTEL_TRACES_SAMPLER` (by default all, unless the caller has decided), the resource
    that of `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, the propagators those of `OTEL_PROPAGATORS`
    (W3C trace context and baggage), the queue's limits those of `OTEL_BSP_*`.

    Args:
        exporter: where spans go.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        named = Resource.create({"service.name": "lynceus", "process.pid": os.getpid()})
        named = named.merge(OTELResourceDetector().detect())  # the operator's attributes take precedence
        provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._processor = BatchSpanProcessor(exporter)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("lynceus")
        self._fields = propagate.get_global_textmap().fields

    def http(self, scope: Mapping[str, Any]) -> RequestSpan:
        """Begins the span of an HTTP request (an ASGI scope), below the caller's if its headers name one."""
        method, server, client = _method(scope["method"]), scope["server"], scope["client"]
        attributes: dict[str, Value] = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        if server is not None:
            attributes["server.address"] = server[0]
            if server[1] is not None:
                attributes["server.port"] = server[1]
        if client is not None:
            attributes["client.address"] = client[0]
        carrier: dict[str, str] = {}
        for raw, value in scope["headers"]:
            name = raw.decode("latin-1")
            if name in self._fields:
                carrier[name] = value.decode("latin-1")
            elif name == "user-agent":
                attributes["user_agent.original"] = value.decode("latin-1")
        return self._begin(method, carrier, attributes)

    def rpc(self, name: str, metadata: Iterable[tuple[str, str | bytes]]) -> RequestSpan:
        """Begins the span of an RPC, below the caller's if the metadata name one.

        Args:
            name: ``/package.Service/Method``.
            metadata: of the call; names in lower case.
        """
        carrier = {key: value for key, value in metadata if key in self._fields and isinstance(value, str)}
        name = name.removeprefix("/")
        return self._begin(name, carrier, {"rpc.system.name": "grpc", "rpc.method": name})

    def stage(
        self,
        name: str,
        began: float,
        seconds: float,
        attributes: Mapping[str, Value],
        parts: Iterable[tuple[str, float]] = (),
    ) -> None:
        """Records a stage of the current request that has ended.

        Args:
            name: ``decode``, ``queue`` or ``batch``.
            began: on `time.perf_counter`.
            seconds: that it took.
            attributes: names and numbers.
            parts: what it was made of, one after the other, each with its seconds: spans below its own.
        """
        if not trace.get_current_span().is_recording():
            return
        start = time.time_ns() - int((time.perf_counter() - began) * 1e9)
        span = self._tracer.start_span(name, attributes=attributes, start_time=start)
        inside, place = trace.set_span_in_context(span), start
        for part, took in parts:
            below = self._tracer.start_span(part, context=inside, attributes=attributes, start_time=place)
            place += int(took * 1e9)
            below.end(place)
        span.end(start + int(seconds * 1e9))

    def close(self) -> None:
        """Sends what is left, for at most `FLUSH` seconds; blocks, so not for the event loop's thread."""
        sender = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        sender.start()  # the SDK's own limit is half a minute and cannot be set
        sender.join(FLUSH)

    def _begin(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, Value]) -> RequestSpan:
        caller = propagate.extract(carrier, contexts.Context())
        return RequestSpan(
            self._tracer.start_span(name, context=caller, kind=SpanKind.SERVER, attributes=attributes)
        )


def make_tracing(kind: str) -> Tracing | None:
    """What the setting `tracing` asks for; None where it is off.

    Args:
        kind: ``off``; ``console``: a line of JSON a span on the standard output; ``otlp``: OTLP over HTTP or,
            with `OTEL_EXPORTER_OTLP_PROTOCOL=grpc`, over gRPC, to `OTEL_EXPORTER_OTLP_ENDPOINT`.

    Raises:
        ValueError: the exporter is not installed, or the protocol is none of the two.
    """
    if kind == "off":
        return None
    if kind == "console":
        return Tracing(ConsoleSpanExporter(out=sys.stdout, formatter=_line))
    default = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", default)
    if protocol not in PACKAGES:
        raise ValueError(f"the OTLP protocol {protocol!r} is none of {', '.join(PACKAGES)}")
    name, package = PACKAGES[protocol]
    for entry in entry_points(group="opentelemetry_traces_exporter", name=name):
        return Tracing(entry.load()())
    raise ValueError(f"LYNCEUS_TRACING=otlp needs an exporter that is not installed: {package}")


def _line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)) + "\n"


def _method(method: str) -> str:
    return method if method in METHODS else "_OTHER"
