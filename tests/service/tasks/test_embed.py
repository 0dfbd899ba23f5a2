"""The vector of an image: the classifier's own, of length 1, the same at every transport."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import grpc
import numpy as np
import pytest
import torch

from service.oip.stubs import open_inference_pb2 as oip
from service.oip.stubs.open_inference_pb2_grpc import GRPCInferenceServiceStub
from service.rpc.stubs import vision_pb2 as pb
from tests.service.transports import Transports, open_transports, pipeline

BODY = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}


def image(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)
    return bytes(cv2.imencode(".png", noise)[1])


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("lenet5")]) as transports:
        yield transports


def test_it_is_what_the_last_layer_takes(transports: Transports) -> None:
    answer = transports.http("POST", "/v1/embed", content=image(1)).json()
    served = transports.engine.runners["lenet5"]
    assert (answer["model"], answer["sha256"]) == ("lenet5", served.card.sha256)
    assert (answer["dimensions"], answer["image"]) == (84, {"width": 40, "height": 40})
    vector = np.array(answer["embedding"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    # the head of the network on the same vector, up to its length, gives the classifier's ranking
    labels = transports.http("POST", "/v1/classify?top_k=10", content=image(1)).json()["labels"]
    head = [layer for layer in served.pipeline.module.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    assert head.bias is not None
    order = [label["index"] for label in labels]
    with torch.inference_mode():
        logits = torch.log(torch.tensor([label["score"] for label in labels]).double())
        directions = head.weight.flatten(1)[order].double() @ torch.tensor(vector)
        bias = head.bias[order].double()
    design = np.stack([directions.numpy(), np.ones(10)], 1)
    fitted, *_ = np.linalg.lstsq(design, (logits - bias).numpy(), rcond=None)  # its length, and the softmax's
    np.testing.assert_allclose(design @ fitted, (logits - bias).numpy(), atol=1e-3)


def test_every_transport_gives_the_same(transports: Transports) -> None:
    http = transports.http("POST", "/v1/embed", content=image(2)).json()
    reply = transports.stub.Embed(pb.EmbedRequest(image=image(2)))
    np.testing.assert_allclose(reply.embedding, http["embedding"], atol=1e-6)
    assert (reply.dimensions, reply.sha256) == (84, http["sha256"])
    request = oip.ModelInferRequest(model_name="lenet5")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(image(2))
    request.outputs.add(name="embedding")
    found = GRPCInferenceServiceStub(transports.channel).ModelInfer(request)
    assert list(found.outputs[0].shape) == [1, 84]
    vector = np.frombuffer(found.raw_output_contents[0], np.float32)
    np.testing.assert_allclose(vector, http["embedding"], atol=1e-6)


def test_without_being_asked_the_open_inference_protocol_gives_the_scores_alone(
    transports: Transports,
) -> None:
    answer = transports.http("POST", "/v2/models/lenet5/infer", content=image(3), headers=BODY).json()
    assert [output["name"] for output in answer["outputs"]] == ["scores"]
    metadata = transports.http("GET", "/v2/models/lenet5").json()
    assert {"name": "embedding", "datatype": "FP32", "shape": [-1, 84]} in metadata["outputs"]


def test_scores_and_embedding_are_one_inference(transports: Transports) -> None:
    statistics = "/v2/models/lenet5/stats"
    before = transports.http("GET", statistics).json()["model_stats"][0]["inference_count"]
    request = oip.ModelInferRequest(model_name="lenet5")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(image(7))
    for name in ("embedding", "scores"):
        request.outputs.add(name=name)
    found = GRPCInferenceServiceStub(transports.channel).ModelInfer(request)
    assert [list(output.shape) for output in found.outputs] == [[1, 84], [1, 10]]
    after = transports.http("GET", statistics).json()["model_stats"][0]["inference_count"]
    assert after == before + 1


def test_several_images_and_an_unknown_model(transports: Transports) -> None:
    files = [("image", (f"{seed}.png", image(seed), "image/png")) for seed in (4, 4, 5)]
    results = transports.http("POST", "/v1/embed", files=files).json()["results"]
    a, b, c = (np.array(result["embedding"]) for result in results)
    assert a @ b == pytest.approx(1, abs=1e-6)
    assert a @ c < 0.9999
    answer = transports.http("POST", "/v1/embed?model=none", content=image(1))
    assert (answer.status_code, answer.json()["code"]) == (404, "model_unknown")
    with pytest.raises(grpc.RpcError) as refused:
        transports.stub.Embed(pb.EmbedRequest(image=b"none"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
