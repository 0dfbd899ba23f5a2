"""Traces of real requests through both transports: one tree each, below the caller's span, no secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence

import cv2
import grpc
import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.rpc.stubs import vision_pb2 as pb
from service.telemetry.tracing import Tracing
from tests.service.transports import Transports, open_transports, pipeline

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
KEY = {"x-api-key": "a-secret-key"}
PNG = bytes(cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1])


class Traced:
    """Transports whose spans are kept."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = Tracing(self._exporter)
        self.transports: Transports

    def spans(self) -> list[ReadableSpan]:
        """Those since the last time."""
        self.tracing._processor.force_flush()
        found = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return found


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    traced = Traced()
    models = [pipeline(name) for name in ("lenet5", "mtcnn", "dlib-resnet")]
    with open_transports(models, tracing=traced.tracing, api_keys=KEY["x-api-key"]) as transports:
        traced.transports = transports
        yield traced
    traced.tracing.close()


def tree(spans: Sequence[ReadableSpan]) -> tuple[ReadableSpan, dict[str, ReadableSpan]]:
    """The request's span and those below it by name, all of one trace; a batch's parts lie below it."""
    (root,) = [span for span in spans if span.kind.name == "SERVER"]
    children = {span.name: span for span in spans if span is not root}
    assert len(children) == len(spans) - 1
    for child in children.values():
        above = children["batch"] if child.name in ("compute", "postprocess") else root
        assert above.context is not None
        assert child.parent is not None
        assert child.context is not None
        assert child.parent.span_id == above.context.span_id
        assert child.context.trace_id == above.context.trace_id
    return root, children


def check_stages(root: ReadableSpan, children: dict[str, ReadableSpan]) -> None:
    """Decode, queue and batch in their order, within the request, on one machine's clock."""
    assert set(children) == {"decode", "queue", "batch", "compute", "postprocess"}
    slack = 2_000_000  # two clocks are read
    for child in children.values():
        assert root.start_time is not None
        assert root.end_time is not None
        assert child.start_time is not None
        assert child.end_time is not None
        assert root.start_time - slack <= child.start_time <= child.end_time <= root.end_time + slack
        assert (child.attributes or {})["lynceus.model"] == "lenet5"
    queued, batch, computed = children["queue"], children["batch"], children["compute"]
    assert queued.end_time is not None
    assert batch.start_time is not None
    assert queued.end_time <= batch.start_time + slack
    assert computed.start_time == batch.start_time
    assert computed.end_time == children["postprocess"].start_time
    assert (batch.attributes or {})["lynceus.batch.size"] == 1


def test_http(traced: Traced) -> None:
    headers = CALLER | KEY | {"x-request-id": "mine"}
    answer = traced.transports.http("POST", "/v1/classify?top_k=1&model=lenet5", content=PNG, headers=headers)
    assert answer.status_code == 200
    spans = traced.spans()
    root, children = tree(spans)
    check_stages(root, children)
    assert root.name == "POST /v1/classify"
    assert root.parent is not None
    assert root.context is not None
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, SPAN)
    found = dict(root.attributes or {})
    assert (found["http.route"], found["http.response.status_code"]) == ("/v1/classify", 200)
    assert (found["lynceus.request_id"], found["lynceus.code"]) == ("mine", "ok")
    everything = "".join(str(span.to_json()) for span in spans)
    assert KEY["x-api-key"] not in everything
    assert "top_k" not in everything


def test_grpc(traced: Traced) -> None:
    metadata = tuple((CALLER | KEY).items())
    traced.transports.stub.Classify(pb.ClassifyRequest(image=PNG, top_k=1), metadata=metadata)
    root, children = tree(traced.spans())
    check_stages(root, children)
    assert root.name == "lynceus.v1.Vision/Classify"
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == TRACE
    assert (root.attributes or {})["rpc.response.status_code"] == "OK"


def test_every_frame_of_a_stream_lies_below_the_stream(traced: Traced) -> None:
    frames = [pb.ClassifyRequest(image=PNG, top_k=1)] * 3
    list(traced.transports.stub.ClassifyStream(iter(frames), metadata=tuple(KEY.items())))
    spans = traced.spans()
    (root,) = [span for span in spans if span.kind.name == "SERVER"]
    assert root.context is not None
    assert root.name == "lynceus.v1.Vision/ClassifyStream"
    names = [span.name for span in spans if span.parent and span.parent.span_id == root.context.span_id]
    assert sorted(names) == ["batch"] * 3 + ["decode"] * 3 + ["queue"] * 3


def test_several_images_and_another_tasks_stages(traced: Traced) -> None:
    files = [("image", PNG), ("image", PNG)]
    traced.transports.http("POST", "/v1/classify?top_k=1", files=files, headers=KEY)
    assert sorted(span.name for span in traced.spans()).count("compute") == 2
    traced.transports.http("POST", "/v1/faces/detect?rotate=none", content=PNG, headers=KEY)
    root, children = tree(traced.spans())
    assert (children["compute"].attributes or {})["lynceus.model"] == "mtcnn"
    assert root.name == "POST /v1/faces/detect"


def test_what_is_refused_is_told_with_its_code(traced: Traced) -> None:
    traced.transports.http("POST", "/v1/classify", content=b"words", headers=KEY)
    traced.transports.http("POST", "/v1/classify", content=PNG)
    traced.transports.http("GET", "/v1/nothing/at/all", headers=KEY)
    codes = [(span.name, (span.attributes or {})["lynceus.code"]) for span in traced.spans()]
    assert codes == [
        ("POST /v1/classify", "media_type"),
        ("POST /v1/classify", "unauthenticated"),
        ("GET", "not_found"),  # a path of the client's choice is no name: there would be no end of them
    ]
    with pytest.raises(grpc.RpcError):
        traced.transports.stub.Classify(pb.ClassifyRequest(image=PNG))
    root, children = tree(traced.spans())
    assert (root.attributes or {})["rpc.response.status_code"] == "UNAUTHENTICATED"
    assert children == {}
    assert root.status.is_ok


def test_probes_and_scrapes_are_not_told(traced: Traced) -> None:
    assert traced.transports.http("GET", "/metrics").status_code == 200
    assert traced.transports.http("GET", "/v2/health/ready").status_code == 200
    assert traced.spans() == []


def test_the_log_names_the_trace(
    traced: Traced, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(traced.transports.engine.runners["lenet5"], "run", fail)
    with caplog.at_level(logging.ERROR):
        answer = traced.transports.http("POST", "/v1/classify", content=PNG, headers=KEY | CALLER)
        assert answer.status_code == 500
        metadata = tuple((KEY | CALLER).items())
        with pytest.raises(grpc.RpcError):
            traced.transports.stub.Classify(pb.ClassifyRequest(image=PNG), metadata=metadata)
    assert [record.getMessage().count(f"(trace {TRACE})") for record in caplog.records] == [1, 1]
    assert [span.status.is_ok for span in traced.spans()] == [False, False]


def test_the_lines_of_the_access_log_name_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    traces = Tracing(InMemorySpanExporter())
    with open_transports([pipeline("lenet5")], tracing=traces, access_log=True) as transports:
        transports.http("POST", "/v1/classify?top_k=1", content=PNG, headers=CALLER)
        transports.stub.Classify(pb.ClassifyRequest(image=PNG), metadata=tuple(CALLER.items()))
    traces.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["transport"], line["trace_id"]) for line in lines] == [("http", TRACE), ("grpc", TRACE)]
