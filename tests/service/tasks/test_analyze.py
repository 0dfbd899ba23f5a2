"""Several tasks on one image: the answers are those of the tasks, and it is decoded once."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from models import image as decoding
from service.rpc.stubs import vision_pb2 as pb
from service.tasks.analyze import PARTS
from tests.service.tasks.test_embed import image
from tests.service.transports import Transports, open_transports, pipeline


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("lenet5"), pipeline("yolo-person")]) as transports:
        yield transports


def test_the_parts_are_the_tasks_own_answers(transports: Transports) -> None:
    query = "tasks=classify,embed,detect&classify.top_k=2&detect.score_threshold=0.01"
    answer = transports.http("POST", f"/v1/analyze?{query}", content=image(1)).json()
    assert answer["image"] == {"width": 40, "height": 40}
    results = answer["results"]
    for task, own in (("classify", "?top_k=2"), ("embed", ""), ("detect", "?score_threshold=0.01")):
        alone = transports.http("POST", f"/v1/{task}{own}", content=image(1)).json()
        assert list(results[task]) == list(alone)
        for one, other in zip(results[task].get("labels", ()), alone.get("labels", ()), strict=True):
            assert one["index"] == other["index"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
    assert len(results["classify"]["labels"]) == 2
    detections = transports.http("POST", "/v1/detect?score_threshold=0.01", content=image(1)).json()
    assert len(results["detect"]["detections"]) == len(detections["detections"])
    assert len(results["detect"]["detections"]) > 0


def test_both_transports_say_the_same(transports: Transports) -> None:
    answer = transports.http("POST", "/v1/analyze?tasks=classify,embed", content=image(2)).json()["results"]
    request = pb.AnalyzeRequest(image=image(2), tasks=["classify", "embed"])
    request.classify.top_k = 3
    reply = transports.stub.Analyze(request)
    assert [label.label for label in reply.classify.labels] == [
        label["label"] for label in answer["classify"]["labels"][:3]
    ]
    assert list(reply.embed.embedding) == pytest.approx(answer["embed"]["embedding"], abs=1e-6)
    assert (reply.image.width, reply.HasField("detect"), len(reply.problems)) == (40, False, 0)


def test_a_part_that_fails_leaves_the_others(transports: Transports) -> None:
    answer = transports.http("POST", "/v1/analyze", content=image(3))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert list(results) == ["classify", "detect", "faces_embed"]
    assert results["classify"]["labels"]
    problem = results["faces_embed"]["problem"]  # no face model is served here
    alone = transports.http("POST", "/v1/faces/embed", content=image(3)).json()
    assert problem["code"] == alone["code"]
    reply = transports.stub.Analyze(pb.AnalyzeRequest(image=image(3), tasks=["classify", "faces_embed"]))
    assert [(one.task, one.problem.code) for one in reply.problems] == [("faces_embed", problem["code"])]
    assert reply.classify.labels


def test_the_image_is_decoded_once(transports: Transports, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, whole = [], decoding.decode

    def count(*given: object, **options: object) -> decoding.Image:
        decoded.append(given)
        return whole(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("service.engine.engine.decode", count)
    assert transports.http("POST", "/v1/classify", content=image(4)).status_code == 200
    assert len(decoded) == 1
    assert transports.http("POST", "/v1/analyze?tasks=classify,embed,detect", content=image(4)).is_success
    assert len(decoded) == 2
    assert transports.engine.memory.used == 0


@pytest.mark.parametrize(
    ("query", "status", "parameter"),
    [
        ("tasks=none", 422, "tasks"),
        ("tasks=", 422, "tasks"),
        ("tasks=stylize", 422, "tasks"),
        ("detect.score_threshold=2", 422, "detect.score_threshold"),
        ("classify.top_k=0", 422, "classify.top_k"),
    ],
)
def test_a_wrong_parameter_is_named(transports: Transports, query: str, status: int, parameter: str) -> None:
    answer = transports.http("POST", f"/v1/analyze?{query}", content=image(1))
    assert (answer.status_code, answer.json().get("parameter")) == (status, parameter)


def test_over_grpc_too(transports: Transports) -> None:
    request = pb.AnalyzeRequest(image=image(1), tasks=["detect"])
    request.detect.score_threshold = 2
    with pytest.raises(grpc.RpcError) as refused:
        transports.stub.Analyze(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "detect.score_threshold" in refused.value.details()


def test_several_images_are_answered_each_by_itself(transports: Transports) -> None:
    files = [("image", (name, data, "image/png")) for name, data in (("a", image(5)), ("b", b"none"))]
    answer = transports.http("POST", "/v1/analyze?tasks=classify", files=files).json()
    good, bad = answer["results"]
    assert good["results"]["classify"]["labels"]
    assert bad["code"] in {"image_invalid", "media_type"}


def test_every_part_has_a_field_of_the_reply() -> None:
    assert set(PARTS) < set(pb.AnalyzeReply.DESCRIPTOR.fields_by_name)
    assert set(PARTS) < set(pb.AnalyzeRequest.DESCRIPTOR.fields_by_name)
