"""Every kind of explanation, over HTTP and gRPC, as numbers and as images; and what is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image as Picture

from models.image import encode
from models.pipeline import Kind
from service.rpc.stubs import vision_pb2 as pb
from service.tasks.explain import EXPLAIN, ExplainKind, _item
from tests.models.exported.files import Classifier, export, served
from tests.service.transports import Transports, open_transports, pipeline

KINDS = [kind.value for kind in ExplainKind]
PATH = "/v1/classify/explain"
JSON = {"Accept": "application/json"}


def digit() -> bytes:
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[8:56, 44:52] = 255
    return encode(pixels, "png")


@pytest.fixture(scope="module")
def transports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transports]:
    folder: Path = tmp_path_factory.mktemp("exported")
    path = export(Classifier(), folder / "mine.onnx", (3, 32, 32))
    mine = served(Kind.CLASSIFY, path, labels=[*"abcde"], scores="logits")
    with open_transports([pipeline("lenet5"), mine]) as opened:
        yield opened


def asked(transports: Transports, headers: dict[str, str] = JSON, **parameters: Any) -> Any:
    return transports.http("POST", PATH, params=parameters, content=digit(), headers=headers)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_images_are_for_the_same_label(transports: Transports, kind: str) -> None:
    answer = asked(transports, kind=kind)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["kind"], body["label"], body["index"]) == (kind, "1", 1)
    assert 0 <= body["score"] <= 1
    assert body["image"] == {"width": 96, "height": 64}
    said = f'{kind};index=1;label="1";score={body["score"]:.3f}'
    assert answer.headers["x-explanation"] == said
    drawn = asked(transports, {"Accept": "image/png"}, kind=kind)
    assert drawn.headers["x-explanation"] == said
    picture = Picture.open(io.BytesIO(drawn.content))
    assert picture.format == "PNG"
    assert picture.width >= 360  # so that the caption can be read
    strip = np.asarray(picture.convert("L"))[-14:]
    assert strip.min() < 100 < 250 < strip.max()


@pytest.mark.parametrize("kind", KINDS)
def test_grpc_answers_the_same(transports: Transports, kind: str) -> None:
    body = asked(transports, kind=kind).json()
    number = pb.ExplainKind.Value(f"EXPLAIN_KIND_{kind.upper()}")
    reply, call = transports.stub.Explain.with_call(
        pb.ExplainRequest(image=digit(), model="lenet5", kind=number)
    )
    assert (reply.label, reply.index, reply.kind) == (body["label"], body["index"], number)
    assert reply.score == pytest.approx(body["score"], abs=1e-5)
    trailers = dict(call.trailing_metadata())
    assert trailers["x-explanation"].startswith(f'{kind};index=1;label="1";score=')
    if "heat" in body:
        np.testing.assert_allclose([row.values for row in reply.heat], body["heat"], atol=1e-5)
    if "scores" in body:
        np.testing.assert_allclose([row.values for row in reply.scores], body["scores"], atol=1e-5)
    if "activations" in body:
        assert (reply.layer, reply.channels, reply.rows) == (body["layer"], body["channels"], body["rows"])
        for one, expected in zip(reply.activations, body["activations"], strict=True):
            assert one.channel == expected["channel"]
            np.testing.assert_allclose([row.values for row in one.map], expected["map"], atol=1e-5)
    shown = transports.stub.Explain(
        pb.ExplainRequest(image=digit(), kind=number, format=pb.PICTURE_FORMAT_PNG)
    )
    assert Picture.open(io.BytesIO(shown.picture)).width >= 360
    assert (shown.label, shown.index) == ("1", 1)


def test_occlusion_finds_the_ink_and_explains_an_exported_network(transports: Transports) -> None:
    heat = np.array(asked(transports, kind="occlusion").json()["heat"])
    assert heat.max() == 1
    columns = heat.sum(0)
    middle = columns[len(columns) // 4 : -(len(columns) // 4)].sum()
    assert middle > 0.6 * columns.sum()
    answer = asked(transports, kind="occlusion", model="mine")
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] in "abcde"
    assert answer.json()["region"] != [0, 0, 0, 0]
    for kind in set(KINDS) - {"occlusion"}:
        refused = asked(transports, kind=kind, model="mine").json()
        assert (refused["code"], refused["parameter"]) == ("parameter_invalid", "model")
        assert "kind=occlusion" in refused["detail"]


def test_a_layer_and_how_many_of_its_channels(transports: Transports) -> None:
    body = asked(transports, kind="activations", layer="features.0", top=3).json()
    assert (body["layer"], body["channels"], body["rows"], body["columns"]) == ("features.0", 6, 28, 28)
    assert len(body["activations"]) == 3
    drawn = asked(transports, {"Accept": "image/png"}, kind="activations", layer="features.0", top=3)
    assert Picture.open(io.BytesIO(drawn.content)).width >= 512


def test_where_nothing_is_found_a_sentence_says_so(transports: Transports) -> None:
    body = asked(transports, kind="windows", score_threshold=1).json()
    assert body["boxes"] == []
    assert re.fullmatch(r"no window has a score of 1\.00 or more; the highest is .*", body["note"])
    assert "note" not in asked(transports, kind="cam").json()


@pytest.mark.parametrize(
    ("parameters", "parameter", "says"),
    [
        ({"label": "ten"}, "label", "no label 'ten'"),
        ({"label": "10"}, "label", "indices are 0 to 9"),
        ({"kind": "activations", "layer": "feature.0"}, "layer", "did you mean features.0"),
        ({"kind": "activations", "top": 65}, "top", "less than or equal to 64"),
        ({"kind": "occlusion", "fraction": 0.03}, "fraction", "try a larger fraction"),
        ({"kind": "occlusion", "label": "x" * 5000}, "label", "no label"),
    ],
)
def test_a_bad_parameter_is_named_over_both_transports(
    transports: Transports, parameters: dict[str, Any], parameter: str, says: str
) -> None:
    problem = asked(transports, **parameters).json()
    assert (problem["status"], problem["code"], problem["parameter"]) == (422, "parameter_invalid", parameter)
    assert says in problem["detail"]
    fields = dict(parameters)
    if "kind" in fields:
        fields["kind"] = pb.ExplainKind.Value(f"EXPLAIN_KIND_{fields['kind'].upper()}")
    with pytest.raises(grpc.RpcError) as caught:
        transports.stub.Explain(pb.ExplainRequest(image=digit(), **fields))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_deadline_ends_it(transports: Transports) -> None:
    for kind in ("saliency", "occlusion"):
        answer = asked(transports, JSON | {"X-Timeout-Ms": "1"}, kind=kind)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded"), kind


def test_layers_over_both_transports(transports: Transports) -> None:
    body = transports.http("GET", "/v1/models/lenet5/layers").json()
    first = body["layers"][0]
    assert (first["name"], first["shape"], first["receptive_field"]) == ("features.0", [6, 28, 28], [5, 5])
    reply = transports.stub.ListLayers(pb.ListLayersRequest(model="lenet5"))
    assert [layer.name for layer in reply.layers] == [layer["name"] for layer in body["layers"]]
    assert list(reply.layers[0].receptive_field) == [5, 5]
    assert transports.http("GET", "/v1/models/none/layers").json()["code"] == "model_unknown"
    assert transports.http("GET", "/v1/models/mine/layers").json()["parameter"] == "model"
    with pytest.raises(grpc.RpcError) as caught:
        transports.stub.ListLayers(pb.ListLayersRequest(model="none"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_filters_of_a_layer(transports: Transports) -> None:
    one, other = (
        transports.http("GET", "/v1/models/lenet5/filters", params={"layer": layer})
        for layer in ("features.0", "features.3")
    )
    assert one.headers["content-type"] == "image/png"
    assert one.content == transports.http("GET", "/v1/models/lenet5/filters").content != other.content
    problem = transports.http("GET", "/v1/models/lenet5/filters", params={"layer": "feature.0"}).json()
    assert (problem["code"], problem["parameter"]) == ("parameter_invalid", "layer")
    assert "did you mean features.0" in problem["detail"]


def test_labels_of_any_alphabet_go_into_the_header() -> None:
    class Found:
        index, score = 3, 0.41236

        def __init__(self, label: str) -> None:
            self.label = label

    def said(label: str) -> str:
        return _item(ExplainKind.CAM, Found(label))  # type: ignore[arg-type]

    assert said('a "b" \\ c') == 'cam;index=3;label="a \\"b\\" \\\\ c";score=0.412'
    assert said("Fön 50%") == 'cam;index=3;label=%"F%c3%b6n 50%25";score=0.412'
    assert said("a\nb") == 'cam;index=3;label=%"a%0ab";score=0.412'
    assert set(EXPLAIN.gives) == {"X-Explanation"}
