"""Faces over real HTTP: found, embedded, verified, compared; and what is refused."""

from __future__ import annotations

import io
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from tests.paths import SHARED, needs_shared
from tests.server import Server

pytestmark = [pytest.mark.e2e, needs_shared]
FACES = SHARED / "data" / "faces"
JPEG = {"content-type": "image/jpeg"}


def picture(name: str) -> bytes:
    return (FACES / name).read_bytes()


def of(person: str, index: int = 0) -> bytes:
    return sorted((FACES / person).glob("*.jpg"))[index].read_bytes()


def verify(client: httpx.Client, a: bytes, b: bytes, **parameters: object) -> httpx.Response:
    return client.post("/v1/faces/verify", params=parameters, files={"a": a, "b": b})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def blank() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (320, 240), (90, 120, 60)).save(out, "JPEG")
    return out.getvalue()


def decoded(name: str) -> NDArray[np.uint8]:
    return np.array(Image.open(FACES / name).convert("RGB"))


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def face_of(client: httpx.Client, data: bytes) -> dict[str, Any]:
    """The largest face."""
    faces: list[dict[str, Any]] = client.post("/v1/faces/detect", content=data, headers=JPEG).json()["faces"]
    return max(faces, key=lambda face: face["box"][2] - face["box"][0])


def pasted(client: httpx.Client, size: int, height: int, width: int) -> tuple[bytes, list[float]]:
    """A portrait with a face of `size` pixels in a large photo, and the face's box there."""
    portrait = Image.open(FACES / "obama" / "0.jpg").convert("RGB")
    x1, y1, x2, y2 = face_of(client, of("obama"))["box"]
    scale = size / min(x2 - x1, y2 - y1)
    size_there = round(portrait.width * scale), round(portrait.height * scale)
    small = portrait.resize(size_there, Image.Resampling.BOX)
    photo = Image.open(SHARED / "data" / "photos" / "giraffe.jpg").convert("RGB").resize((width, height))
    left, top = width * 2 // 3, height // 4
    photo.paste(small, (left, top))
    return jpeg(np.array(photo)), [
        value * scale + offset for value, offset in zip((x1, y1, x2, y2), (left, top, left, top), strict=True)
    ]


def near(found: list[float], box: list[float]) -> bool:
    """Within a quarter of its side."""
    side = box[2] - box[0]
    return all(abs(a - b) < side / 4 for a, b in zip(found, box, strict=True))


def test_a_small_face_in_a_large_photo(client: httpx.Client, server: Server) -> None:
    data, box = pasted(client, 80, 3000, 4000)
    answer = client.post("/v1/faces/detect", content=data, headers=JPEG).json()
    assert any(near(face["box"], box) for face in answer["faces"])
    assert answer["search"]["min_face"] <= 60
    assert answer["search"]["rotation"] == 0
    coarse = client.post("/v1/faces/detect?min_size=120", content=data, headers=JPEG).json()
    assert (coarse["faces"], coarse["search"]["min_face"]) == ([], 120)
    embedded = client.post("/v1/faces/embed", content=data, headers=JPEG).json()
    assert any(near(face["box"], box) for face in embedded["faces"])
    assert verify(client, data, of("obama", 1)).json()["verified"] is True
    analyzed = client.post("/v1/analyze?tasks=faces_detect", content=data, headers=JPEG).json()
    assert analyzed["results"]["faces_detect"]["faces"] == answer["faces"]
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = VisionStub(channel)
        reply = stub.DetectFaces(pb.DetectFacesRequest(image=data), timeout=60)
        assert len(reply.faces) == len(answer["faces"])
        assert reply.search.min_face == pytest.approx(answer["search"]["min_face"], abs=0.1)
        none = stub.DetectFaces(pb.DetectFacesRequest(image=data, min_size=120), timeout=60)
        assert (len(none.faces), none.search.min_face) == (0, 120)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_portrait(client: httpx.Client, server: Server, turn: int) -> None:
    pixels = decoded("obama/0.jpg")
    # turned clockwise, so that it stands upright once turned back counterclockwise
    data, height, width = jpeg(np.rot90(pixels, -turn // 90)), *pixels.shape[:2]
    answer = client.post("/v1/faces/detect", content=data, headers=JPEG).json()
    assert answer["search"]["rotation"] == turn
    (face,) = answer["faces"]
    upright = face_of(client, of("obama"))
    for (x, y), point in zip(upright["landmarks"], face["landmarks"], strict=True):
        place = {90: (height - y, x), 180: (width - x, height - y), 270: (y, width - x)}[turn]
        assert np.linalg.norm(np.subtract(place, point)) < 25  # of a face of 250 pixels
    body = verify(client, of("obama", 1), data).json()
    assert body["verified"] is True
    assert {name: one["rotation"] for name, one in body["search"].items()} == {"a": 0, "b": turn}
    as_it_is = client.post("/v1/faces/detect?rotate=none", content=data, headers=JPEG).json()
    assert as_it_is["search"]["rotation"] == 0
    with grpc.insecure_channel(server.grpc_address) as channel:
        request = pb.VerifyFacesRequest(a=of("obama", 1), b=data)
        reply = VisionStub(channel).VerifyFaces(request, timeout=60)
        assert (reply.verdict.verified, reply.search_a.rotation, reply.search_b.rotation) == (True, 0, turn)
        request.rotate = pb.FACE_ROTATION_NONE
        try:
            assert not VisionStub(channel).VerifyFaces(request, timeout=60).verdict.verified
        except grpc.RpcError as error:  # not found at all
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION  # noqa: PT017


def test_a_mirrored_portrait(client: httpx.Client) -> None:
    mirrored = jpeg(decoded("obama/0.jpg")[:, ::-1])
    assert verify(client, of("obama", 1), mirrored).json()["verified"] is True


@pytest.mark.parametrize("edge", ["left", "top", "right", "bottom"])
def test_a_face_that_the_border_cuts(client: httpx.Client, edge: str) -> None:
    """Two fifths of it are gone."""
    pixels = decoded("obama/0.jpg")
    x1, y1, x2, y2 = map(int, face_of(client, of("obama"))["box"])
    part = {
        "left": pixels[:, x1 + 2 * (x2 - x1) // 5 :],
        "top": pixels[y1 + 2 * (y2 - y1) // 5 :],
        "right": pixels[:, : x2 - 2 * (x2 - x1) // 5],
        "bottom": pixels[: y2 - 2 * (y2 - y1) // 5],
    }[edge]
    answer = client.post("/v1/faces/detect", content=jpeg(part), headers=JPEG).json()
    assert (len(answer["faces"]), answer["search"]["rotation"]) == (1, 0)
    left, top, right, bottom = answer["faces"][0]["box"]
    height, width, _ = part.shape
    assert {"left": left, "top": top, "right": width - right, "bottom": height - bottom}[edge] < 10


def test_two_people_are_two_faces(client: httpx.Client) -> None:
    body = client.post("/v1/faces/detect", content=picture("groups/two_people.jpg"), headers=JPEG).json()
    assert body["model"] == "mtcnn"
    assert len(body["faces"]) == 2
    for face in body["faces"]:
        x1, y1, x2, y2 = face["box"]
        assert x1 < x2 <= body["image"]["width"]
        assert y1 < y2 <= body["image"]["height"]
        assert len(face["landmarks"]) == 5
        assert 0.9 <= face["score"] <= 1


def test_the_annotated_picture(client: httpx.Client) -> None:
    data = picture("groups/two_people.jpg")
    answer = client.post("/v1/faces/detect", content=data, headers={**JPEG, "Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == Image.open(io.BytesIO(data)).size


def test_embeddings_carry_their_model_and_share_a_batch(client: httpx.Client) -> None:
    answer = client.post("/v1/faces/embed", content=picture("groups/two_people.jpg"), headers=JPEG)
    faces = answer.json()["faces"]
    cards = {card["name"]: card for card in client.get("/v1/models").json()["models"]}
    for face in faces:
        assert len(face["embedding"]) == 128
        assert face["model"] == {"name": "dlib-resnet", "sha256": cards["dlib-resnet"]["sha256"]}
    assert int(answer.headers["x-batch-size"]) >= 2  # both chips in one run of the embedder


def test_one_person_is_verified_and_two_are_not(client: httpx.Client) -> None:
    same = verify(client, of("obama", 0), of("obama", 1)).json()
    assert same["verified"] is True
    assert same["distance"] < same["threshold"] == 0.6
    assert same["metric"] == "euclidean"
    assert same["similarity"] > 0.9
    assert set(same["faces"]) == {"a", "b"}
    other = verify(client, of("obama"), of("biden")).json()
    assert other["verified"] is False
    strict = verify(client, of("obama", 0), of("obama", 1), threshold=0.01).json()
    assert strict["verified"] is False


def test_verify_takes_json_too(client: httpx.Client) -> None:
    import base64

    body = {name: base64.b64encode(of("biden")).decode() for name in ("a", "b")}
    answer = client.post("/v1/faces/verify", json=body).json()
    assert answer["distance"] == pytest.approx(0, abs=1e-3)


def test_compare_gives_the_same_verdict(client: httpx.Client) -> None:
    faces = [
        client.post("/v1/faces/embed", content=of("obama", index), headers=JPEG).json()["faces"][0]
        for index in (0, 1)
    ]
    direct = verify(client, of("obama", 0), of("obama", 1)).json()
    compared = client.post("/v1/faces/compare", json={"a": faces[0], "b": faces[1]}).json()
    assert compared["verified"] == direct["verified"]
    assert compared["distance"] == pytest.approx(direct["distance"], abs=1e-3)
    other = {**faces[1], "model": {"name": "dlib-resnet", "sha256": "0" * 64}}
    short = {**faces[1], "embedding": faces[1]["embedding"][:-1]}
    for b in (other, short, {"embedding": []}, None):
        answer = client.post("/v1/faces/compare", json={"a": faces[0], "b": b})
        assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid"), answer.text
        assert answer.json()["parameter"].startswith("b")
    nan = f'{{"a": {{"embedding": [NaN], "model": {{"name": "x", "sha256": "{"0" * 64}"}}}}, "b": {{}}}}'
    answer = client.post("/v1/faces/compare", content=nan, headers={"content-type": "application/json"})
    assert answer.json()["code"] == "parameter_invalid"


def test_no_face_names_the_picture(client: httpx.Client, blank: bytes) -> None:
    for a, b, image in ((blank, of("obama"), "a"), (of("obama"), blank, "b")):
        answer = verify(client, a, b)
        assert (answer.status_code, answer.json()["code"], answer.json()["image"]) == (
            422,
            "face_not_found",
            image,
        )
    assert client.post("/v1/faces/detect", content=blank, headers=JPEG).json()["faces"] == []


def test_several_faces_are_refused_only_where_one_is_asked_for(client: httpx.Client) -> None:
    group = picture("groups/obama_and_biden.jpg")
    answer = verify(client, of("obama"), group, face_select="only")
    assert (answer.status_code, answer.json()["code"], answer.json()["image"]) == (422, "faces_many", "b")
    largest = verify(client, of("obama"), group, face_select="largest").json()
    assert isinstance(largest["verified"], bool)
    assert verify(client, of("obama"), group, face_select="smallest").json()["parameter"] == "face_select"


def test_a_picture_that_does_not_decode_is_named(client: httpx.Client) -> None:
    answer = verify(client, of("obama"), of("obama")[:2000])
    assert (answer.status_code, answer.json()["code"], answer.json()["image"]) == (400, "image_invalid", "b")
    missing = client.post("/v1/faces/verify", files={"a": of("obama")})
    assert (missing.json()["code"], missing.json()["parameter"]) == ("parameter_invalid", "b")
    raw = client.post("/v1/faces/verify", content=of("obama"), headers=JPEG)
    assert (raw.status_code, raw.json()["code"]) == (415, "media_type")


def test_a_face_under_the_minimum_size_is_not_given(client: httpx.Client) -> None:
    data = of("obama")
    found = client.post("/v1/faces/detect", content=data, headers=JPEG).json()
    x1, y1, x2, y2 = found["faces"][0]["box"]
    above = min(x2 - x1, y2 - y1) + 2
    answer = client.post(f"/v1/faces/detect?min_size={above}", content=data, headers=JPEG).json()
    assert answer["faces"] == []
