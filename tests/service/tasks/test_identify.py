"""Identification over both transports: the ranking, what is refused, and what a gallery may cost."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from models.parameters import checked
from service.rpc.stubs import vision_pb2 as pb
from service.tasks.faces.identify import FACES_IDENTIFY, GALLERY, NAME, NUMBERS, FacesIdentifyBody
from service.web.json_text import check_structure
from service.web.tasks import bytes_of, structure_of
from tests.paths import ROOT
from tests.service.transports import Transports, open_transports, pipeline

PATH = "/v1/faces/identify"
D = 128
ASTRONAUT = (ROOT / "service" / "web" / "ui" / "sample-astronaut.jpg").read_bytes()
BLANK = bytes(cv2.imencode(".png", np.full((64, 64, 3), 90, np.uint8))[1])
Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("mtcnn"), pipeline("dlib-resnet")]) as transports:
        yield transports


def vectors(count: int, dimensions: int = D) -> Vectors:
    rows = np.random.default_rng(count).normal(size=(count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def text(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def gallery(rows: Vectors, *, encoded: bool = False) -> list[dict[str, Any]]:
    return [
        {"name": f"person {index}", "embedding": text(row) if encoded else row.tolist()}
        for index, row in enumerate(rows)
    ]


def entries(rows: Vectors) -> list[pb.GalleryEntry]:
    return [pb.GalleryEntry(name=f"person {index}", embedding=row) for index, row in enumerate(rows)]


def ranked(probe: Vectors, rows: Vectors) -> list[tuple[str, float]]:
    distances = np.linalg.norm(rows.astype(np.float64) - probe.astype(np.float64), axis=1)
    return [(f"person {index}", distances[index]) for index in np.argsort(distances, kind="stable")]


def close(matches: Sequence[Any], wanted: Sequence[tuple[str, float]]) -> None:
    assert [match["name"] for match in matches] == [name for name, _ in wanted]
    assert [match["distance"] for match in matches] == pytest.approx([at for _, at in wanted], abs=1e-6)


@pytest.mark.parametrize("encoded", [False, True])
def test_an_embedding_among_many(transports: Transports, encoded: bool) -> None:
    rows = vectors(40)
    probe = (rows[7] + 0.02 * vectors(1)[0]).astype(np.float32)
    body = {
        "embedding": text(probe) if encoded else probe.tolist(),
        "gallery": gallery(rows, encoded=encoded),
    }
    answer = transports.http("POST", PATH, json=body).json()
    wanted = ranked(probe, rows)
    close(answer["matches"], wanted[:10])
    assert answer["matches"][0]["name"] == "person 7"
    assert [match["verified"] for match in answer["matches"]] == [at <= 0.6 for _, at in wanted[:10]]
    assert answer["probe"] is None
    assert (answer["threshold"], answer["metric"]) == (0.6, "euclidean")
    assert answer["model"]["sha256"] == transports.engine.runners["dlib-resnet"].card.sha256


def test_parameters_in_the_query_or_in_the_body(transports: Transports) -> None:
    rows = vectors(20)
    body = {"embedding": rows[3].tolist(), "gallery": gallery(rows)}
    in_query = transports.http("POST", f"{PATH}?top_k=20&threshold=9", json=body).json()
    assert len(in_query["matches"]) == 20
    assert all(match["verified"] for match in in_query["matches"])
    in_body = transports.http(
        "POST", PATH, json=body | {"top_k": 20, "threshold": 9, "embedder": None}
    ).json()
    assert in_body == in_query


def test_an_image_as_json_as_a_form_and_over_grpc(transports: Transports) -> None:
    rows = vectors(6)
    face = transports.http("POST", "/v1/faces/embed", content=ASTRONAUT).json()["faces"][0]
    known = np.vstack([rows, np.array([face["embedding"]], np.float32)])
    people, image = gallery(known), base64.b64encode(ASTRONAUT).decode()
    query = f"?top_k=7&sha256={face['model']['sha256'].upper()}"
    as_json = transports.http("POST", PATH + query, json={"image": image, "gallery": people}).json()
    assert as_json["matches"][0]["name"] == "person 6"
    assert as_json["matches"][0]["distance"] == pytest.approx(0, abs=1e-3)
    assert as_json["probe"]["box"] == pytest.approx(face["box"])
    form = {"gallery": json.dumps(people), "top_k": "7"}
    as_form = transports.http("POST", PATH, data=form, files={"image": ASTRONAUT}).json()
    close(as_form["matches"], [(match["name"], match["distance"]) for match in as_json["matches"]])
    request = pb.IdentifyFaceRequest(image=ASTRONAUT, gallery=entries(known), top_k=7)
    reply = transports.stub.IdentifyFace(request)
    assert [match.name for match in reply.matches] == [match["name"] for match in as_json["matches"]]
    for match, other in zip(reply.matches, as_json["matches"], strict=True):
        assert match.distance == pytest.approx(other["distance"], abs=1e-5)
        assert match.similarity == pytest.approx(other["similarity"], abs=1e-5)
        assert match.verified == other["verified"]
    assert reply.threshold == pytest.approx(as_json["threshold"])
    assert (reply.metric, reply.model.sha256) == (as_json["metric"], as_json["model"]["sha256"])
    assert reply.probe.box.x1 == pytest.approx(face["box"][0], abs=1e-3)
    assert transports.engine.memory.used == 0


def test_a_full_gallery(transports: Transports) -> None:
    rows = vectors(GALLERY)
    wanted = ranked(rows[999], rows)[:3]
    for encoded in (False, True):
        body = {"embedding": text(rows[999]), "gallery": gallery(rows, encoded=encoded), "top_k": 3}
        answer = transports.http("POST", PATH, json=body)
        assert answer.status_code == 200, answer.text
        close(answer.json()["matches"], wanted)
    request = pb.IdentifyFaceRequest(embedding=rows[999], gallery=entries(rows), top_k=3)
    reply = transports.stub.IdentifyFace(request)
    assert [match.name for match in reply.matches] == [name for name, _ in wanted]


GOOD = vectors(3)
ONE = GOOD[0].tolist()


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"embedding": ONE}, "gallery"),
        ({"embedding": ONE, "gallery": []}, "gallery"),
        ({"embedding": ONE, "gallery": {}}, "gallery"),
        ({"gallery": gallery(GOOD)}, "image"),
        ({"gallery": gallery(GOOD), "embedding": ONE, "image": base64.b64encode(BLANK).decode()}, "image"),
        ({"gallery": gallery(GOOD), "embedding": ONE[:-1]}, "embedding"),
        ({"gallery": gallery(GOOD), "embedding": []}, "embedding"),
        ({"gallery": gallery(GOOD), "embedding": [*ONE[:-1], "1"]}, "embedding.127"),
        ({"gallery": gallery(GOOD), "embedding": "AAA!"}, "embedding"),
        ({"gallery": gallery(GOOD), "embedding": "AAAA"}, "embedding"),
        ({"gallery": gallery(GOOD), "embedding": text(np.full(D, np.nan, np.float32))}, "embedding"),
        ({"gallery": gallery(GOOD), "embedding": [0.0] * D}, "embedding"),
        ({"gallery": gallery(GOOD), "embedding": [1e39] * D}, "embedding"),
        ({"gallery": [*gallery(GOOD), {"name": "x", "embedding": ONE[1:]}], "embedding": ONE}, "gallery.3"),
        ({"gallery": [*gallery(GOOD), {"name": "x", "embedding": [0] * D}], "embedding": ONE}, "gallery.3"),
        ({"gallery": [*gallery(GOOD), gallery(GOOD)[1]], "embedding": ONE}, "gallery"),
        ({"gallery": [{"name": "", "embedding": ONE}], "embedding": ONE}, "gallery.0.name"),
        ({"gallery": [{"name": "x" * (NAME + 1), "embedding": ONE}], "embedding": ONE}, "gallery.0.name"),
        ({"gallery": [{"name": "x"}], "embedding": ONE}, "gallery.0.embedding"),
        ({"gallery": gallery(vectors(GALLERY + 1, 1)), "embedding": ONE}, "gallery"),
        ({"gallery": gallery(GOOD), "embedding": ONE, "sha256": "0" * 64}, "sha256"),
        ({"gallery": gallery(GOOD), "embedding": ONE, "sha256": "none"}, "sha256"),
        ({"gallery": gallery(GOOD), "embedding": ONE, "top_k": 0}, "top_k"),
        ({"gallery": gallery(GOOD), "embedding": ONE, "threshhold": 1}, "threshhold"),
        ([], "body"),
    ],
)
def test_what_is_refused(transports: Transports, body: Any, parameter: str) -> None:
    answer = transports.http("POST", PATH, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid"), answer.text
    assert answer.json()["parameter"].startswith(parameter)
    assert len(answer.content) < 1000


def test_what_is_refused_in_a_form(transports: Transports) -> None:
    people = json.dumps(gallery(GOOD))
    for fields, files, code, parameter in (
        ({"gallery": "["}, {"image": ASTRONAUT}, "parameter_invalid", "gallery"),
        ({"gallery": "[{}]"}, {"image": ASTRONAUT}, "parameter_invalid", "gallery.0.name"),
        ({"gallery": [people, people]}, {"image": ASTRONAUT}, "parameter_invalid", "gallery"),
        ({"gallery": people}, {"photo": ASTRONAUT}, "parameter_invalid", "photo"),
        ({"gallery": people}, {"image": b"no image"}, "media_type", None),
        ({"gallery": people}, {"image": BLANK}, "face_not_found", None),
        ({"gallery": people, "top": "3"}, {"image": ASTRONAUT}, "parameter_invalid", "top"),
    ):
        problem = transports.http("POST", PATH, data=fields, files=files).json()
        assert (problem["code"], problem.get("parameter")) == (code, parameter), problem
    raw = transports.http("POST", PATH, content=ASTRONAUT, headers={"content-type": "image/jpeg"})
    assert (raw.status_code, "multipart/form-data" in raw.json()["detail"]) == (415, True)
    bad = {"image": "???", "gallery": gallery(GOOD)}
    assert transports.http("POST", PATH, json=bad).json()["code"] == "image_invalid"


@pytest.mark.parametrize(
    "request_",
    [
        pb.IdentifyFaceRequest(embedding=ONE),
        pb.IdentifyFaceRequest(gallery=entries(GOOD)),
        pb.IdentifyFaceRequest(embedding=ONE, image=BLANK, gallery=entries(GOOD)),
        pb.IdentifyFaceRequest(embedding=ONE[1:], gallery=entries(GOOD)),
        pb.IdentifyFaceRequest(embedding=ONE, gallery=[*entries(GOOD), *entries(GOOD)]),
        pb.IdentifyFaceRequest(embedding=ONE, gallery=entries(vectors(GALLERY + 1, 1))),
        pb.IdentifyFaceRequest(embedding=ONE, gallery=entries(vectors(200, 4000))),
        pb.IdentifyFaceRequest(embedding=ONE, gallery=[pb.GalleryEntry(name="x" * 700_000, embedding=ONE)]),
    ],
    ids=range(8),
)
def test_what_is_refused_over_grpc(transports: Transports, request_: pb.IdentifyFaceRequest) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        transports.stub.IdentifyFace(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert transports.engine.memory.used == 0


def test_other_methods_keep_their_bounds(transports: Transports) -> None:
    far = pb.CompareFacesRequest(a=pb.Embedding(embedding=[1.0] * 40_000))
    with pytest.raises(grpc.RpcError) as caught:
        transports.stub.CompareFaces(far)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    body = {"a": {"embedding": [1] * 20_000}}
    assert transports.http("POST", "/v1/faces/compare", json=body).status_code == 413


def test_the_largest_gallery_fits_and_nothing_larger() -> None:
    """As clients write it: float32 as its shortest decimal of a double, long names in any script."""
    rows = vectors(GALLERY, NUMBERS // GALLERY)
    names = ("\U0001f600" * (NAME - 4) + f"{index:04d}" for index in range(GALLERY))
    people = [{"name": name, "embedding": row.tolist()} for name, row in zip(names, rows, strict=True)]
    body = json.dumps({"gallery": people, "embedding": rows[0].tolist()}).encode()
    assert len(body) <= bytes_of(FACES_IDENTIFY)
    check_structure(body, structure_of(FACES_IDENTIFY))
    parsed = checked(FacesIdentifyBody, body)
    np.testing.assert_array_equal([entry.embedding for entry in parsed.gallery], rows)


def test_more_than_a_gallery_is_not_parsed(transports: Transports) -> None:
    longer = b'{"gallery":[{"name":"x","embedding":[' + b"1," * (NUMBERS + 100_000) + b"1]}]}"
    headers = {"content-type": "application/json"}
    assert transports.http("POST", PATH, content=longer, headers=headers).status_code == 413
    wide = b'{"gallery":' + b" " * bytes_of(FACES_IDENTIFY) + b"[]}"
    small = {"content-type": "application/json", "content-length": str(20 * 2**20 * 4 // 3 + len(wide))}
    assert transports.http("POST", PATH, content=wide, headers=small).status_code == 413
    people = gallery(vectors(200, 4000), encoded=True)  # fewer bytes, as many numbers
    answer = transports.http("POST", PATH, json={"gallery": people, "embedding": ONE})
    assert (answer.status_code, answer.json()["parameter"]) == (422, "gallery")
