"""gRPC end to end: the real service with two workers on one port, real pictures, the answers of HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import psutil
import pytest

from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from tests.paths import SHARED
from tests.server import Server

pytestmark = pytest.mark.e2e
JPEG = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[VisionStub]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield VisionStub(channel)


def same_box(box: pb.Box, numbers: list[float]) -> bool:
    return [box.x1, box.y1, box.x2, box.y2] == pytest.approx(numbers, abs=1e-2)


def test_classify(client: httpx.Client, stub: VisionStub, dog: bytes) -> None:
    http = client.post("/v1/classify", content=dog, headers=JPEG).json()
    reply = stub.Classify(pb.ClassifyRequest(image=dog))
    assert reply.labels[0].label == "German shepherd"
    assert [label.label for label in reply.labels] == [label["label"] for label in http["labels"]]
    assert (reply.image.width, reply.image.height) == (http["image"]["width"], http["image"]["height"])


def test_detect(client: httpx.Client, stub: VisionStub) -> None:
    photo = SHARED / "data" / "faces" / "groups" / "two_people.jpg"
    if not photo.exists():
        pytest.skip("the shared data folder is not beside the checkout")
    people = photo.read_bytes()
    query = "/v1/detect?score_threshold=0.05&max_detections=3&classes=person"
    http = client.post(query, content=people, headers=JPEG).json()
    reply = stub.Detect(
        pb.DetectRequest(image=people, score_threshold=0.05, max_detections=3, classes=["person"])
    )
    assert len(reply.detections) == len(http["detections"]) >= 2
    for found, other in zip(reply.detections, http["detections"], strict=True):
        assert (found.class_id, found.label) == (other["class_id"], other["label"])
        assert found.score == pytest.approx(other["score"], abs=1e-4)
        assert same_box(found.box, other["box"])


def test_faces(client: httpx.Client, stub: VisionStub) -> None:
    people = sorted(path for path in (SHARED / "data" / "faces").iterdir() if path.name != "groups")
    if not people:
        pytest.skip("the shared data folder is not beside the checkout")
    a, b = (path.read_bytes() for path in sorted(people[0].glob("*.jpg"))[:2])
    other = min(people[1].glob("*.jpg")).read_bytes()

    http = client.post("/v1/faces/detect", content=a, headers=JPEG).json()
    found = stub.DetectFaces(pb.DetectFacesRequest(image=a))
    assert len(found.faces) == len(http["faces"])
    for face, expected in zip(found.faces, http["faces"], strict=True):
        assert same_box(face.box, expected["box"])
        assert len(face.landmarks) == 5

    verdict = stub.VerifyFaces(pb.VerifyFacesRequest(a=a, b=b))
    http = client.post("/v1/faces/verify", files={"a": a, "b": b}).json()
    assert verdict.verdict.verified is http["verified"] is True
    assert verdict.verdict.distance == pytest.approx(http["distance"], abs=1e-4)
    assert same_box(verdict.a.box, http["faces"]["a"]["box"])
    assert not stub.VerifyFaces(pb.VerifyFacesRequest(a=a, b=other)).verdict.verified

    one, two = (stub.EmbedFaces(pb.EmbedFacesRequest(image=image, max_faces=1)) for image in (a, b))
    compared = stub.CompareFaces(
        pb.CompareFacesRequest(
            a=pb.Embedding(embedding=one.faces[0].embedding, model=one.embedder),
            b=pb.Embedding(embedding=two.faces[0].embedding, model=two.embedder),
        )
    )
    assert compared.verified
    assert compared.distance == pytest.approx(verdict.verdict.distance, abs=1e-4)


def test_frames_of_a_stream(stub: VisionStub, dog: bytes) -> None:
    frames = [dog, b"not a picture", dog] * 4
    outcomes = list(
        stub.DetectStream(pb.DetectRequest(image=frame, score_threshold=0.01) for frame in frames)
    )
    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == ["result", "problem", "result"] * 4
    assert outcomes[1].problem.code == "media_type"
    assert outcomes[0].result == outcomes[-1].result


def test_workers_share_the_port(server: Server) -> None:
    listening = [
        worker.pid
        for worker in psutil.Process(server.process.pid).children(recursive=True)
        for socket in worker.net_connections("tcp")
        if socket.status == psutil.CONN_LISTEN and socket.laddr.port == server.grpc_port
    ]
    assert len(listening) == len(set(listening)) == 2


def test_calls_are_counted_in_the_metrics_of_all_workers(
    client: httpx.Client, stub: VisionStub, dog: bytes
) -> None:
    def count() -> float:
        wanted = 'lynceus_requests_total{code="ok",task="classify",transport="grpc"}'
        for line in client.get("/metrics").text.splitlines():
            if line.startswith(wanted):
                return float(line.rpartition(" ")[2])
        return 0.0

    before = count()
    for _ in range(3):
        stub.Classify(pb.ClassifyRequest(image=dog))
    assert count() == before + 3
