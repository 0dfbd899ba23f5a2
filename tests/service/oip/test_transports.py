"""The Open Inference Protocol in process, over both transports: what models take, give and refuse."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Iterator
from typing import Any

import cv2
import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.oip.stubs import open_inference_pb2 as pb
from service.oip.stubs.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.paths import SHARED, needs_shared
from tests.service.rpc.test_vision import digit
from tests.service.transports import Transports, open_transports, pipeline, style_pipeline

MODELS = ("lenet5", "yolo-person", "mtcnn", "dlib-resnet")
HEADER = "Inference-Header-Content-Length"
LIMIT = 1024 * 1024


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    models = [pipeline(name) for name in MODELS]
    with open_transports(models, max_images=4, max_body_bytes=LIMIT, max_image_bytes=LIMIT) as transports:
        yield transports


def of(*pictures: bytes) -> dict[str, Any]:
    """The JSON input of encoded pictures."""
    data = [base64.b64encode(picture).decode() for picture in pictures]
    return {"name": "image", "datatype": "BYTES", "shape": [len(data), 1], "data": data}


def pixels(array: NDArray[np.uint8]) -> dict[str, Any]:
    return {"name": "pixels", "datatype": "UINT8", "shape": array.shape, "data": array.tolist()}


def infer(transports: Transports, model: str, *inputs: dict[str, Any], **rest: Any) -> httpx.Response:
    return transports.http("POST", f"/v2/models/{model}/infer", json={"inputs": inputs, **rest})


def outputs(answer: httpx.Response) -> dict[str, NDArray[Any]]:
    assert answer.status_code == 200, answer.text
    return {
        tensor["name"]: np.array(tensor["data"]).reshape(tensor["shape"])
        for tensor in answer.json()["outputs"]
    }


def stub(transports: Transports) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(transports.channel)


def message(model: str, *pictures: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="image", datatype="BYTES", shape=[len(pictures)])
    request.raw_input_contents.append(b"".join(struct.pack("<I", len(one)) + one for one in pictures))
    return request


@pytest.mark.parametrize("model", MODELS)
def test_configuration_and_metadata_agree_over_both_doors(transports: Transports, model: str) -> None:
    metadata = transports.http("GET", f"/v2/models/{model}").json()
    config = transports.http("GET", f"/v2/models/{model}/versions/1/config").json()
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    assert "sequence_batching" not in config
    for named, entries in (("inputs", config["input"]), ("outputs", config["output"])):
        for tensor, entry in zip(metadata[named], entries, strict=True):
            assert (tensor["name"], tensor["shape"]) == (entry["name"], [-1, *entry["dims"]])
            kind = entry["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
            assert kind == tensor["datatype"]
    over = stub(transports).ModelMetadata(pb.ModelMetadataRequest(name=model))
    assert [(one.name, list(one.shape)) for one in over.inputs] == [
        (one["name"], one["shape"]) for one in metadata["inputs"]
    ]
    assert stub(transports).ModelConfig(pb.ModelConfigRequest(name=model)).config.max_batch_size == 4


def test_what_is_served(transports: Transports) -> None:
    server = transports.http("GET", "/v2").json()
    assert server["name"] == stub(transports).ServerMetadata(pb.ServerMetadataRequest()).name == "lynceus"
    assert {"binary_tensor_data", "statistics", "model_configuration"} < set(server["extensions"])
    index = transports.http("POST", "/v2/repository/index", json={"ready": True}).json()
    assert [(one["name"], one["version"], one["state"]) for one in index] == [
        (name, "1", "READY") for name in MODELS
    ]
    assert len(stub(transports).RepositoryIndex(pb.RepositoryIndexRequest()).models) == len(MODELS)
    assert transports.http("GET", "/v2/health/live").json() == {"live": True}
    assert transports.http("GET", "/v2/health/ready").json() == {"ready": True}
    assert transports.http("GET", "/v2/models/lenet5/ready").status_code == 200
    assert stub(transports).ServerReady(pb.ServerReadyRequest()).ready
    assert stub(transports).ModelReady(pb.ModelReadyRequest(name="lenet5", version="1")).ready


def test_a_raw_body_a_tensor_and_grpc_give_one_answer(transports: Transports) -> None:
    raw = transports.http("POST", "/v2/models/lenet5/infer", content=digit(3), headers={HEADER: "0"})
    scores = outputs(raw)["scores"]
    assert scores.shape == (1, 10)
    labels = transports.http("POST", "/v1/classify?top_k=10", content=digit(3)).json()["labels"]
    for label in labels:
        assert scores[0, label["index"]] == pytest.approx(label["score"], abs=1e-6)
    np.testing.assert_array_equal(outputs(infer(transports, "lenet5", of(digit(3))))["scores"], scores)
    reply = stub(transports).ModelInfer(message("lenet5", digit(3)))
    (values,) = reply.raw_output_contents
    np.testing.assert_allclose(np.frombuffer(values, "<f4").reshape(1, 10), scores, rtol=1e-6)
    binary = transports.http(
        "POST",
        "/v2/models/lenet5/versions/1/infer",
        content=digit(3),
        headers={HEADER: "0", "accept": "application/octet-stream", "accept-encoding": "identity"},
    )
    assert binary.content[int(binary.headers[HEADER]) :] == values
    assert binary.headers["content-type"] == "application/octet-stream"
    assert "server-timing" in binary.headers


def test_several_pictures_keep_their_order_and_share_batches(transports: Transports) -> None:
    answer = infer(transports, "lenet5", of(*(digit(value) for value in range(4))), id="mine")
    assert answer.json()["id"] == "mine"
    alone = [outputs(infer(transports, "lenet5", of(digit(value))))["scores"][0] for value in range(4)]
    np.testing.assert_allclose(outputs(answer)["scores"], alone, atol=1e-5)
    assert int(answer.headers["x-batch-size"]) == 2  # the most that these transports' runners take


def test_pixels_are_the_picture_without_its_encoding(transports: Transports) -> None:
    small = np.zeros((2, 32, 32, 3), np.uint8)
    for value, picture in enumerate(small):
        cv2.putText(picture, str(value), (8, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    encoded = [bytes(cv2.imencode(".png", picture)[1]) for picture in small]
    np.testing.assert_allclose(
        outputs(infer(transports, "lenet5", pixels(small)))["scores"],
        outputs(infer(transports, "lenet5", of(*encoded)))["scores"],
        atol=1e-5,
    )
    request = pb.ModelInferRequest(model_name="lenet5")
    tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=small.shape)
    tensor.contents.uint_contents.extend(small.ravel().tolist())
    typed = stub(transports).ModelInfer(request).raw_output_contents[0]
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(small.tobytes())
    assert stub(transports).ModelInfer(request).raw_output_contents[0] == typed


@needs_shared
def test_a_detectors_tensors_are_v1s_detections(transports: Transports) -> None:
    photo = (SHARED / "data" / "photos" / "dog.jpg").read_bytes()
    blank = bytes(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1])
    wish = {"score_threshold": 0.05, "max_detections": 3}
    found = outputs(infer(transports, "yolo-person", of(photo, blank), parameters=wish))
    usual = transports.http("POST", "/v1/detect", content=photo, params=wish).json()["detections"]
    count, none = found["counts"]
    assert (count, none) == (len(usual), 0)
    assert found["boxes"].shape == (2, count, 4)
    np.testing.assert_allclose(
        found["boxes"][0], np.reshape([one["box"] for one in usual], (count, 4)), atol=1
    )
    np.testing.assert_allclose(found["scores"][0], [one["score"] for one in usual], atol=1e-3)
    assert found["class_ids"].tolist() == [[one["class_id"] for one in usual], [-1] * count]
    assert not found["boxes"][1].any()


@needs_shared
def test_faces_and_their_embeddings_are_v1s(transports: Transports) -> None:
    group = (SHARED / "data" / "faces" / "groups" / "two_people.jpg").read_bytes()
    usual = transports.http("POST", "/v1/faces/embed", content=group).json()["faces"]
    faces = outputs(infer(transports, "mtcnn", of(group)))
    assert faces["counts"].tolist() == [2]
    np.testing.assert_allclose(faces["boxes"][0], [one["box"] for one in usual], atol=0.5)
    np.testing.assert_allclose(faces["landmarks"][0], [one["landmarks"] for one in usual], atol=0.5)
    found = outputs(infer(transports, "dlib-resnet", of(group)))
    assert found["embeddings"].shape == (1, 2, 128)
    np.testing.assert_allclose(found["embeddings"][0], [one["embedding"] for one in usual], atol=1e-3)
    one = outputs(infer(transports, "dlib-resnet", of(group), parameters={"max_faces": 1}))
    assert one["counts"].tolist() == [1]


def test_an_aligned_chip_is_embedded_as_it_is(transports: Transports) -> None:
    chip = np.random.default_rng(0).integers(0, 256, (1, 150, 150, 3), np.uint8)
    png = bytes(cv2.imencode(".png", chip[0, :, :, ::-1])[1])
    wish = {"aligned": True}
    as_picture = outputs(infer(transports, "dlib-resnet", of(png), parameters=wish))
    as_pixels = outputs(infer(transports, "dlib-resnet", pixels(chip)))
    assert as_pixels["embeddings"].shape == (1, 1, 128)
    np.testing.assert_allclose(as_picture["embeddings"], as_pixels["embeddings"], atol=1e-5)
    assert as_pixels["boxes"].tolist() == [[[0, 0, 150, 150]]]
    none = outputs(infer(transports, "dlib-resnet", of(png)))  # noise has no face
    assert (none["counts"].tolist(), none["embeddings"].shape) == ([0], (1, 0, 128))


def test_the_classification_extension(transports: Transports) -> None:
    scores = outputs(infer(transports, "lenet5", of(digit(7), digit(1))))["scores"]
    wish = [{"name": "scores", "parameters": {"classification": 2}}]
    for answer in (
        infer(transports, "lenet5", of(digit(7), digit(1)), outputs=wish),
        infer(transports, "lenet5", of(digit(7), digit(1)), parameters={"top_k": 2}),
    ):
        (tensor,) = answer.json()["outputs"]
        assert (tensor["datatype"], tensor["shape"]) == ("BYTES", [2, 2])
        for row, text in zip((0, 0, 1, 1), tensor["data"], strict=True):
            value, index, label = text.split(":")
            assert label == index
            assert float(value) == pytest.approx(scores[row, int(index)], abs=1e-5)
        assert tensor["data"][0].endswith(f":{scores[0].argmax()}")
    request = message("lenet5", digit(7))
    request.outputs.add(name="scores").parameters["classification"].int64_param = 1
    (raw,) = stub(transports).ModelInfer(request).raw_output_contents
    assert struct.unpack_from("<I", raw)[0] == len(raw) - 4
    assert raw[4:].endswith(b":7:7")


def test_compressed_bodies_both_ways(transports: Transports) -> None:
    body = json.dumps({"inputs": [pixels(np.zeros((4, 32, 32, 3), np.uint8))]}).encode()
    headers = {"content-encoding": "gzip", "accept-encoding": "deflate"}
    answer = transports.http("POST", "/v2/models/lenet5/infer", content=gzip.compress(body), headers=headers)
    assert outputs(answer)["scores"].shape == (4, 10)
    bomb = transports.http(
        "POST", "/v2/models/lenet5/infer", content=gzip.compress(bytes(2 * LIMIT)), headers=headers
    )
    assert bomb.status_code == 413
    assert "decompressed" in bomb.json()["error"]


def test_statistics_count_pictures_and_batches(transports: Transports) -> None:
    def read() -> dict[str, Any]:
        (one,) = transports.http("GET", "/v2/models/lenet5/stats").json()["model_stats"]
        assert isinstance(one, dict)
        return one

    before = read()
    for _ in range(3):
        outputs(infer(transports, "lenet5", of(digit(1), digit(2))))
    assert infer(transports, "lenet5", of(b"no picture")).status_code == 415
    after = read()
    assert after["version"] == "1"
    assert after["last_inference"] > before["last_inference"] > 1_600_000_000_000
    assert after["inference_count"] - before["inference_count"] == 6
    assert 3 <= after["execution_count"] - before["execution_count"] <= 6
    rose = {
        key: (spent["count"] - was["count"], spent["ns"] - was["ns"])
        for key, spent in after["inference_stats"].items()
        for was in [before["inference_stats"][key]]
    }
    for key in ("success", "compute_input", "compute_infer", "compute_output"):
        assert rose[key][0] == 6
        assert rose[key][1] > 0
    assert rose["queue"][0] >= 6
    assert rose["fail"][0] == 1
    assert rose["cache_hit"] == rose["cache_miss"] == (0, 0)
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert rose["success"][1] == pytest.approx(sum(rose[part][1] for part in parts), abs=8)
    for stats in (before, after):
        sizes = stats["batch_stats"]
        assert sum(one["compute_infer"]["count"] for one in sizes) == stats["execution_count"]
        assert (
            sum(one["batch_size"] * one["compute_infer"]["count"] for one in sizes)
            == stats["inference_count"]
        )
    over = stub(transports).ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert [one.name for one in over] == list(MODELS)
    assert over[0].inference_stats.success.ns == after["inference_stats"]["success"]["ns"]


def test_a_stream_answers_in_order_and_goes_on_after_an_error(transports: Transports) -> None:
    requests = []
    for value in range(6):
        requests.append(message("lenet5", b"broken" if value == 2 else digit(value)))
        requests[-1].id = str(value)
    replies = list(stub(transports).ModelStreamInfer(iter(requests)))
    assert [reply.infer_response.id for reply in replies] == [str(value) for value in range(6)]
    for value, reply in enumerate(replies):
        assert bool(reply.error_message) == (value == 2)
        if value != 2:
            alone = stub(transports).ModelInfer(message("lenet5", digit(value)))
            np.testing.assert_allclose(
                np.frombuffer(reply.infer_response.raw_output_contents[0], "<f4"),
                np.frombuffer(alone.raw_output_contents[0], "<f4"),
                atol=1e-5,
            )


def test_both_doors_are_counted_as_one_task(transports: Transports) -> None:
    http, over = transports.counted("http", "infer", "ok"), transports.counted("grpc", "infer", "ok")
    outputs(infer(transports, "lenet5", of(digit(1))))
    stub(transports).ModelInfer(message("lenet5", digit(1)))
    assert transports.counted("http", "infer", "ok") == http + 1
    assert transports.counted("grpc", "infer", "ok") == over + 1
    with pytest.raises(grpc.RpcError):
        stub(transports).ModelInfer(message("unknown", digit(1)))
    assert transports.counted("grpc", "infer", "model_unknown") == 1


def test_a_style_network_gives_pictures() -> None:
    photo = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    png = bytes(cv2.imencode(".png", photo)[1])
    with open_transports([style_pipeline()]) as transports:
        (spec,) = transports.http("GET", "/v2/models/styles").json()["outputs"]
        assert spec == {"name": "picture", "datatype": "BYTES", "shape": [-1, 1]}
        wish = {"format": "png", "strength": 0.5}
        answer = infer(transports, "styles", of(png, png), parameters=wish)
        painted = [base64.b64decode(text) for text in outputs(answer)["picture"].ravel()]
        usual = transports.http(
            "POST", "/v1/stylize?strength=0.5", content=png, headers={"accept": "image/png"}
        ).content
        request = message("styles", png)
        request.parameters["format"].string_param = "png"
        request.parameters["strength"].double_param = 0.5
        (raw,) = stub(transports).ModelInfer(request).raw_output_contents
        for picture in (*painted, raw[4:]):
            assert picture.startswith(b"\x89PNG")
            np.testing.assert_allclose(_pixels(picture), _pixels(usual), atol=2)
        assert infer(transports, "styles", of(png), parameters={"format": "gif"}).status_code == 422
        unknown = infer(transports, "styles", of(png), parameters={"style": "unknown"})
        assert unknown.status_code == 404
        assert infer(transports, "styles", pixels(np.zeros((1, 48, 64, 3), np.uint8))).status_code == 422


def _pixels(picture: bytes) -> NDArray[np.int32]:
    return cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).astype(np.int32)
