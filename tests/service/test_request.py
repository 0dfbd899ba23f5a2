"""The access log: a line a request from both transports, and nothing else."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.host.auth import Auth
from service.request import RequestContext, RequestLog
from service.rpc.stubs import vision_pb2 as pb
from service.telemetry.metrics import Metrics
from service.telemetry.timing import Timing
from tests.service.transports import open_transports, pipeline

PNG = bytes(cv2.imencode(".png", np.zeros((28, 28, 3), np.uint8))[1])


def test_a_line_for_each_request(capsys: pytest.CaptureFixture[str]) -> None:
    with open_transports([pipeline("lenet5")], access_log=True) as transports:
        transports.http("POST", "/v1/classify?top_k=1", content=PNG, headers={"x-request-id": "one"})
        transports.http("POST", "/v1/classify", content=b"words", headers={"x-request-id": "two"})
        metadata = (("x-request-id", "three"),)
        transports.stub.Classify(pb.ClassifyRequest(image=PNG), metadata=metadata)
        with pytest.raises(grpc.RpcError):
            transports.stub.Classify(pb.ClassifyRequest(image=b"words"), metadata=(("x-request-id", "four"),))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {
        line["request_id"]: (line["transport"], line["request"], line["status"], line["code"])
        for line in lines
    }
    assert told == {
        "one": ("http", "POST /v1/classify", "200", "ok"),
        "two": ("http", "POST /v1/classify", "415", "media_type"),
        "three": ("grpc", "/lynceus.v1.Vision/Classify", "OK", "ok"),
        "four": ("grpc", "/lynceus.v1.Vision/Classify", "INVALID_ARGUMENT", "media_type"),
    }
    for line in lines:
        assert line["ms"] > 0
        assert ("batch_size" in line) == (line["code"] == "ok")


@given(
    what=st.text(st.characters(exclude_categories=["Cs"])),
    timing=st.none() | st.builds(Timing, *[st.floats(0, 100)] * 3, st.integers(1, 64)),
)
def test_a_line_is_json_whatever_was_asked_for(what: str, timing: Timing | None) -> None:
    out = io.StringIO()
    log = RequestLog(Metrics(), Auth(), enabled=True, out=out)
    before = datetime.now(UTC)
    log.finish(RequestContext("http", '"\\', timing=timing), what, "200")
    line = json.loads(out.getvalue())
    assert (line["request"], line["request_id"], line["code"]) == (what, '"\\', "ok")
    assert timedelta(0) <= datetime.fromisoformat(line["time"]) - before + timedelta(milliseconds=1)
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    if timing is not None:
        found = [line[f"{stage}_ms"] for stage in ("decode", "queue", "compute")]
        assert found == [round(1000 * part, 2) for part in (timing.decode, timing.queue, timing.compute)]
        assert line["batch_size"] == timing.batch_size


def test_it_is_off_unless_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with open_transports([pipeline("lenet5")]) as transports:
        assert transports.http("GET", "/v1/models").status_code == 200
    assert capsys.readouterr().out == ""


def test_a_full_disk_costs_no_answer() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    out = io.TextIOWrapper(io.FileIO("/dev/full", "w"))
    metrics = Metrics()
    log = RequestLog(metrics, Auth(), enabled=True, out=out)
    for _ in range(2):
        log.finish(RequestContext("http", "one", "classify"), "POST /v1/classify", "200")
    labels = {"task": "classify", "transport": "http", "code": "ok"}
    assert metrics.registry.get_sample_value("lynceus_requests_total", labels) == 2
    with contextlib.suppress(OSError):
        out.close()
