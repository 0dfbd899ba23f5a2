"""The one table of errors, walked through both transports: same request, same code, each one's status."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import grpc
import httpx
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from models import errors as science
from service import errors
from service.oip.stubs import open_inference_pb2 as v2
from service.oip.stubs.open_inference_pb2_grpc import GRPCInferenceServiceStub
from service.rpc.stubs import vision_pb2 as pb
from tests.paths import SHARED
from tests.service.transports import Transports, open_transports, pipeline, style_pipeline

KEY = {"authorization": "Bearer one"}
METADATA = [*KEY.items(), ("x-request-id", "this-one")]
PNG = bytes(cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1])


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    models = [pipeline(name) for name in ("lenet5", "yolo-person", "mtcnn", "dlib-resnet")]
    models.append(style_pipeline())
    limits = {"max_image_bytes": 2 * 1024 * 1024, "max_image_pixels": 1_000_000, "max_queue": 4}
    with open_transports(models, api_keys="one,two", **limits) as transports:
        yield transports


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong, asked for over HTTP and over gRPC."""

    error: type[Exception]
    path: str
    method: str
    message: Any
    body: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    key: dict[str, str] = field(default_factory=lambda: KEY)
    parameter: str | None = None
    image: str | None = None


def big() -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((1001, 1001, 3), np.uint8))[1])


def vector(sha256: str) -> pb.Embedding:
    return pb.Embedding(embedding=[0.1] * 128, model=pb.Version(name="dlib-resnet", sha256=sha256))


def classify(error: type[Exception], body: bytes, query: str = "", **options: Any) -> Case:
    wanted = {name: options.pop(name) for name in ("top_k", "model") if name in options}
    return Case(
        error, f"/v1/classify{query}", "Classify", pb.ClassifyRequest(image=body, **wanted), body, **options
    )


def detect(parameter: str, value: Any, query: str) -> Case:
    request = pb.DetectRequest(image=PNG, **{parameter: value})
    path = f"/v1/detect?{parameter}={query}"
    return Case(science.ParameterInvalid, path, "Detect", request, PNG, parameter=parameter)


CASES = {
    "style": Case(
        science.StyleUnknown,
        "/v1/stylize?style=none",
        "Stylize",
        pb.StylizeRequest(image=PNG, style="none"),
        PNG,
    ),
    "strength": Case(
        science.ParameterInvalid,
        "/v1/stylize?strength=2",
        "Stylize",
        pb.StylizeRequest(image=PNG, strength=2),
        PNG,
        parameter="strength",
    ),
    "empty": classify(science.ImageInvalid, b""),
    "truncated": classify(science.ImageInvalid, PNG[:60]),
    "pixels": classify(science.ImageTooLarge, big()),
    "bytes": classify(science.ImageTooLarge, bytes(3 * 1024 * 1024)),
    "words": classify(science.MediaTypeUnsupported, b"just some words"),
    "top_k": classify(science.ParameterInvalid, PNG, "?top_k=11", top_k=11, parameter="top_k"),
    "no top_k": classify(science.ParameterInvalid, PNG, "?top_k=0", top_k=0, parameter="top_k"),
    "model": classify(science.ModelUnknown, PNG, "?model=none", model="none"),
    "model of another task": classify(science.ModelUnknown, PNG, "?model=mtcnn", model="mtcnn"),
    "model card": Case(science.ModelUnknown, "/v1/models/none", "GetModel", pb.GetModelRequest(name="none")),
    "no key": classify(errors.Unauthenticated, PNG, key={}),
    "wrong key": classify(errors.Unauthenticated, PNG, key={"x-api-key": "three"}),
    "score": detect("score_threshold", 1.5, "1.5"),
    "not a score": detect("score_threshold", float("nan"), "nan"),
    "overlap": detect("iou_threshold", -0.5, "-0.5"),
    "detections": detect("max_detections", 0, "0"),
    "many detections": detect("max_detections", 1001, "1001"),
    "class": detect("classes", ["unicorn"], "unicorn"),
    "faces": Case(
        science.ParameterInvalid,
        "/v1/faces/detect?max_faces=0",
        "DetectFaces",
        pb.DetectFacesRequest(image=PNG, max_faces=0),
        PNG,
        parameter="max_faces",
    ),
    "size": Case(
        science.ParameterInvalid,
        "/v1/faces/embed?min_size=-1",
        "EmbedFaces",
        pb.EmbedFacesRequest(image=PNG, min_size=-1),
        PNG,
        parameter="min_size",
    ),
    "threshold": Case(
        science.ParameterInvalid,
        "/v1/faces/verify?threshold=11",
        "VerifyFaces",
        pb.VerifyFacesRequest(a=PNG, b=PNG, threshold=11),
        files={"a": PNG, "b": PNG},
        parameter="threshold",
    ),
    "embedder": Case(
        science.ModelUnknown,
        "/v1/faces/embed?embedder=none",
        "EmbedFaces",
        pb.EmbedFacesRequest(image=PNG, embedder="none"),
        PNG,
    ),
    "no face": Case(
        science.FaceNotFound,
        "/v1/faces/verify",
        "VerifyFaces",
        pb.VerifyFacesRequest(a=PNG, b=PNG),
        files={"a": PNG, "b": PNG},
        image="a",
    ),
    "bytes of a": Case(
        science.MediaTypeUnsupported,
        "/v1/faces/verify",
        "VerifyFaces",
        pb.VerifyFacesRequest(a=b"words", b=PNG),
        files={"a": b"words", "b": PNG},
        image="a",
    ),
}


def over_http(transports: Transports, case: Case) -> httpx.Response:
    method = "GET" if case.method == "GetModel" else "POST"
    given: dict[str, Any] = {"files": case.files} if case.files else {}
    if method == "POST" and not case.files:
        given = {"content": case.body}
    return transports.http(method, case.path, headers=case.key, **given)


def over_grpc(transports: Transports, case: Case) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(transports.stub, case.method)(case.message, metadata=tuple(case.key.items()))
    return caught.value


def check(case: Case, http: httpx.Response, call: Any) -> None:
    """Both transports gave the row of the table, in their own words."""
    row = errors.TABLE[case.error]
    body = http.json()
    assert http.headers["content-type"] == "application/problem+json"
    assert (http.status_code, body["status"], body["code"]) == (row.http, row.http, row.code)
    assert body.get("parameter") == case.parameter
    assert body.get("image") == case.image

    assert call.code() is grpc.StatusCode[row.grpc], call.details()
    info = error_info(call)
    assert (info.reason, info.domain) == (row.code, "lynceus")
    assert info.metadata.get("parameter") == case.parameter
    assert info.metadata.get("image") == case.image
    assert info.metadata["request_id"] == dict(call.trailing_metadata())["x-request-id"]
    assert call.details()
    assert ".py" not in call.details()


def error_info(call: Any) -> error_details_pb2.ErrorInfo:
    status = rpc_status.from_call(call)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


@pytest.mark.parametrize("name", CASES)
def test_both_doors_say_the_same(transports: Transports, name: str) -> None:
    case = CASES[name]
    check(case, over_http(transports, case), over_grpc(transports, case))


def test_several_faces(transports: Transports) -> None:
    groups = sorted((SHARED / "data" / "faces" / "groups").glob("*.jpg"))
    if not groups:
        pytest.skip("the shared data folder is not beside the checkout")
    picture = cv2.imread(str(groups[0]))
    scale = min(1.0, (900_000 / (picture.shape[0] * picture.shape[1])) ** 0.5)
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    group = bytes(cv2.imencode(".jpg", small)[1])
    case = Case(
        science.FacesMany,
        "/v1/faces/verify?face_select=only",
        "VerifyFaces",
        pb.VerifyFacesRequest(a=group, b=group, face_select=pb.FACE_SELECT_ONLY),
        files={"a": group, "b": group},
        image="a",
    )
    check(case, over_http(transports, case), over_grpc(transports, case))


def test_an_embedding_of_another_model(transports: Transports) -> None:
    other = {"embedding": [0.1] * 128, "model": {"name": "dlib-resnet", "sha256": "0" * 64}}
    http = transports.http("POST", "/v1/faces/compare", json={"a": other, "b": other}, headers=KEY)
    request = pb.CompareFacesRequest(a=vector("0" * 64), b=vector("0" * 64))
    case = Case(science.ParameterInvalid, "", "CompareFaces", request, parameter=http.json()["parameter"])
    check(case, http, over_grpc(transports, case))


def blocked(transports: Transports, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Every picture of the classifier fails with this error from here on."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(transports.engine.runners["lenet5"], "run", refuse)


@pytest.mark.parametrize(
    "error",
    [
        errors.Overloaded("the queue is full", 2.5),
        errors.NotReady("the service is starting"),
        errors.DeadlineExceeded("too late"),
        errors.OutOfMemory("one image alone does not fit"),
        RuntimeError("a secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_service_says_of_itself(
    transports: Transports,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocked(transports, monkeypatch, error)
    case = classify(type(error), PNG)
    http, call = over_http(transports, case), over_grpc(transports, case)
    if isinstance(error, RuntimeError):
        assert (http.status_code, call.code()) == (500, grpc.StatusCode.INTERNAL)  # type: ignore[attr-defined]
        assert error_info(call).reason == http.json()["code"] == "internal"
        assert "secret" not in http.text + call.details()  # type: ignore[attr-defined]
        assert "secret" in caplog.text
        return
    check(case, http, call)
    delay = error_details_pb2.RetryInfo()
    status = rpc_status.from_call(call)  # type: ignore[arg-type]
    told = [detail for detail in status.details if detail.Unpack(delay)]  # type: ignore[union-attr]
    assert bool(told) == ("retry-after" in http.headers)
    if isinstance(error, errors.Overloaded):
        assert delay.retry_delay.ToMilliseconds() == 2500
        assert http.headers["retry-after"] == "3"


def test_the_deadline_of_the_client(transports: Transports, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = threading.Event()

    async def slow(*_: object, **__: object) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    monkeypatch.setattr(transports.engine.runners["lenet5"], "run", slow)
    with pytest.raises(grpc.RpcError) as caught:
        transports.stub.Classify(pb.ClassifyRequest(image=PNG), timeout=0.2, metadata=tuple(KEY.items()))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert cancelled.wait(20), "the server goes on with what no client waits for"


def test_the_cases_cover_the_table() -> None:
    walked = {case.error for case in CASES.values()} | {science.FacesMany}
    walked |= {errors.Overloaded, errors.NotReady, errors.DeadlineExceeded, errors.OutOfMemory}
    # a route or method that is not there is answered by each transport's framework, see test_web and test_rpc
    walked |= {errors.RequestTimeout, errors.KeyBusy}  # see test_limits
    walked |= {errors.HeaderTooLarge}  # HTTP's alone, see test_connection
    walked |= {errors.NotSupported}  # of a service without torch, see test_without_torch
    walked |= {errors.JobUnfinished, errors.JobFinished, errors.StorageFailed}  # HTTP's alone, see test_jobs
    assert walked | {errors.NotFound, errors.MethodNotAllowed, errors.JobUnknown} == set(errors.TABLE)


def _several(transports: Transports) -> str:
    files = [("image", (name, PNG, "image/png")) for name in ("a.png", "b.png")]
    answer = transports.http("POST", "/v1/classify", files=files, headers=KEY | {"x-request-id": "this-one"})
    return answer.text


def _parts(transports: Transports) -> str:
    key = KEY | {"x-request-id": "this-one"}
    return transports.http("POST", "/v1/analyze?tasks=classify", content=PNG, headers=key).text


def _parts_over_grpc(transports: Transports) -> str:
    request = pb.AnalyzeRequest(image=PNG, tasks=["classify"])
    return str(transports.stub.Analyze(request, metadata=METADATA))


def _frames(transports: Transports) -> str:
    return str(list(transports.stub.ClassifyStream(iter([pb.ClassifyRequest(image=PNG)]), metadata=METADATA)))


def _frames_of_v2(transports: Transports) -> str:
    request = v2.ModelInferRequest(model_name="lenet5", id="its-id", raw_input_contents=[_string(PNG)])
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    stub = GRPCInferenceServiceStub(transports.channel)
    (reply,) = stub.ModelStreamInfer(iter([request]), metadata=METADATA)
    assert reply.infer_response.id == "its-id"
    return str(reply)


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize(
    ("ask", "failed"),
    [(_several, 2), (_parts, 1), (_parts_over_grpc, 1), (_frames, 1), (_frames_of_v2, 1)],
)
def test_an_internal_error_of_a_part_is_logged_once_with_the_requests_id(
    transports: Transports,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ask: Callable[[Transports], str],
    failed: int,
) -> None:
    blocked(transports, monkeypatch, RuntimeError("a secret"))
    assert "secret" not in ask(transports)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == failed
    for record in errors:
        assert record.getMessage().startswith("request this-one: ")
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "a secret"
