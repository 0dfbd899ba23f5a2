"""Traces by themselves: which exporter, which sampler, what a dead collector costs, what spans look like."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.telemetry import tracing
from service.telemetry.tracing import Tracing, make_tracing

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def http(traces: Tracing, **headers: str) -> tracing.RequestSpan:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "method": "POST",
        "path": "/v1/classify",
        "scheme": "http",
        "http_version": "1.1",
        "headers": raw,
    }
    return traces.http(scope | {"server": ("10.0.0.1", 3000), "client": ("10.0.0.2", 999)})


def told(exporter: InMemorySpanExporter, traces: Tracing) -> list[ReadableSpan]:
    traces.close()
    return list(exporter.get_finished_spans())


def test_off_is_nothing_at_all() -> None:
    assert make_tracing("off") is None


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "entry_points", lambda **_: ())
    with pytest.raises(ValueError, match="opentelemetry-exporter-otlp-proto-http"):
        make_tracing("otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ValueError, match="opentelemetry-exporter-otlp-proto-grpc"):
        make_tracing("otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(ValueError, match="http/json"):
        make_tracing("otlp")


def test_an_installed_exporter_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()

    class Entry:
        def load(self) -> Any:
            return lambda: exporter

    asked: list[dict[str, str]] = []

    def entry_points(**wanted: str) -> list[Entry]:
        asked.append(wanted)
        return [Entry()]

    monkeypatch.setattr(tracing, "entry_points", entry_points)
    traces = make_tracing("otlp")
    assert traces is not None
    assert asked == [{"group": "opentelemetry_traces_exporter", "name": "otlp_proto_http"}]
    http(traces).end_http("POST", None, 200, "ok", "one")
    assert len(told(exporter, traces)) == 1


def test_the_console_gets_a_line_of_json_for_each_span(capsys: pytest.CaptureFixture[str]) -> None:
    traces = make_tracing("console")
    assert traces is not None
    http(traces).end_http("POST", "/v1/classify", 200, "ok", "one")
    traces.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["name"] == "POST /v1/classify"


def test_parts_lie_below_their_stage_one_after_the_other() -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter)
    request = http(traces)
    parts = (("compute", 0.5), ("postprocess", 0.25))
    traces.stage("batch", time.perf_counter() - 1, 0.75, {"lynceus.batch.size": 2}, parts)
    request.end_http("POST", "/v1/classify", 200, "ok", "one")
    compute, postprocess, batch, _ = told(exporter, traces)
    assert (compute.name, postprocess.name, batch.name) == ("compute", "postprocess", "batch")
    assert batch.context is not None
    for part in (compute, postprocess):
        assert part.parent is not None
        assert part.parent.span_id == batch.context.span_id
        assert dict(part.attributes or {}) == {"lynceus.batch.size": 2}
    assert compute.start_time == batch.start_time
    assert compute.end_time == postprocess.start_time
    assert postprocess.end_time == batch.end_time


def test_stages_lie_below_their_request_at_the_times_that_were_measured() -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter)
    request = http(traces, traceparent=CALLER, user_agent="curl/8")
    began = time.perf_counter() - 2.0
    traces.stage("decode", began, 0.25, {"lynceus.model": "m"})
    traces.stage("queue", began + 0.25, 0.5, {"lynceus.model": "m"})
    request.end_http("POST", "/v1/classify", 200, "ok", "one")
    decode, queue, server = told(exporter, traces)
    assert (decode.name, queue.name, server.name) == ("decode", "queue", "POST /v1/classify")
    assert server.context is not None
    for stage, seconds in ((decode, 0.25), (queue, 0.5)):
        assert stage.parent is not None
        assert stage.parent.span_id == server.context.span_id
        assert stage.start_time is not None
        assert stage.end_time is not None
        assert stage.end_time - stage.start_time == int(seconds * 1e9)
        assert dict(stage.attributes or {}) == {"lynceus.model": "m"}
    assert decode.start_time is not None
    assert server.start_time is not None
    assert decode.start_time < server.start_time  # it was said to have begun two seconds ago
    assert request.trace_id == CALLER.split("-")[1]
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == CALLER.split("-")[2]
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "url.path": "/v1/classify",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "10.0.0.1",
        "server.port": 3000,
        "client.address": "10.0.0.2",
        "user_agent.original": "curl/8",
        "lynceus.request_id": "one",
        "lynceus.code": "ok",
    }
    assert server.resource.attributes["service.name"] == "lynceus"


@pytest.mark.parametrize("header", ["", "00-zz-zz-01", CALLER[:-4], "x" * 10_000])
def test_a_broken_traceparent_begins_a_new_trace(header: str) -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter)
    http(traces, traceparent=header).end_http("POST", None, 404, "not_found", "one")
    (server,) = told(exporter, traces)
    assert server.parent is None
    assert server.name == "POST"


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [(200, "ok", False), (429, "overloaded", False), (499, "cancelled", False), (500, "internal", True)],
)
def test_only_the_servers_own_errors_are_errors_of_its_span(status: int, code: str, fault: bool) -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter)
    http(traces).end_http("POST", None, status, code, "one")
    (server,) = told(exporter, traces)
    assert server.status.is_ok is not fault
    assert (server.attributes or {}).get("error.type") == (code if fault else None)
    assert (server.attributes or {})["lynceus.code"] == code


@pytest.mark.parametrize(("status", "fault"), [("OK", False), ("NOT_FOUND", False), ("UNAVAILABLE", True)])
def test_an_rpc(status: str, fault: bool) -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter)
    metadata = [("traceparent", CALLER), ("trace-bin", b"\0")]
    traces.rpc("/lynceus.v1.Vision/Classify", metadata).end_rpc(status, "code", "one")
    (server,) = told(exporter, traces)
    assert server.name == "lynceus.v1.Vision/Classify"
    assert server.parent is not None
    found = dict(server.attributes or {})
    assert (found["rpc.system.name"], found["rpc.method"]) == ("grpc", "lynceus.v1.Vision/Classify")
    assert found["rpc.response.status_code"] == status
    assert server.status.is_ok is not fault


def test_the_sampler_and_the_name_are_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter)
    http(traces, traceparent=UNSAMPLED).end_http("POST", None, 200, "ok", "one")  # the caller has decided
    assert told(exporter, traces) == []
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    traces = Tracing(exporter)
    request = http(traces)
    traces.stage("decode", 0.0, 1.0, {})
    request.end_http("POST", None, 200, "ok", "one")
    assert told(exporter, traces) == []
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "vision-west")
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter)
    http(traces).end_http("POST", None, 200, "ok", "one")
    assert [span.resource.attributes["service.name"] for span in told(exporter, traces)] == ["vision-west"]


class DeadCollector(SpanExporter):
    """Takes a batch and does not come back until it is let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.let_go.wait(60)
        raise ConnectionError("refused")


def test_a_dead_collector_costs_spans_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    monkeypatch.setattr(tracing, "FLUSH", 0.1)
    collector = DeadCollector()
    traces = Tracing(collector)
    for _ in range(100):
        http(traces).end_http("POST", None, 200, "ok", "one")
    assert collector.asked.wait(60)
    http(traces).end_http("POST", None, 200, "ok", "one")  # while the collector hangs
    traces.close()  # comes back although the collector does not
    collector.let_go.set()
