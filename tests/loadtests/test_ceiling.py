"""The arithmetic and the tables of the load tools; their measurements need a machine of their own."""

from __future__ import annotations

import dataclasses
import email
import json
import os
from pathlib import Path

import pytest

from loadtests.ceiling import Round, batches_of, median_round, table
from loadtests.limit import layouts
from loadtests.loadgen import Load, arguments
from loadtests.server import free_port, status
from loadtests.tasks import (
    TASKS,
    bodies_of,
    body,
    images_in,
    known_faces,
    message,
    message_to,
    requests_of,
)
from service.rpc.stubs import vision_pb2 as pb
from service.telemetry.metrics import Metrics

LOAD = Load(200, 199, {"429": 1}, 0, 9000, 2.0, 99.5, 10.0, 20.0, 30.0, 40.0, 0.02, {1: 150, 4: 50})


def rounds(*ratios: float, connections: int = 16) -> list[Round]:
    return [Round("http", connections, dataclasses.replace(LOAD, rps=100 * ratio), 100.0) for ratio in ratios]


def test_the_median_round_is_one_that_was_measured() -> None:
    assert median_round(rounds(0.9, 0.5, 0.7)).ratio == pytest.approx(0.7)
    assert median_round(rounds(0.9, 0.5)).ratio == pytest.approx(0.5)


def test_the_table_has_a_row_for_each_number_of_connections_with_the_errors_of_all_rounds() -> None:
    lines = table(rounds(0.9, 0.5, 0.7) + rounds(0.25, connections=1)).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(
        "| http | 1 | 25.0 | 100.0 | 25% (25..25) | 10.0 | 30.0 | 429: 1 | 1: 75%, 4: 25% | 1.0%"
    )
    assert lines[3].startswith("| http | 16 | 70.0 | 100.0 | 70% (50..90) | 10.0 | 30.0 | 429: 3 |")


def test_the_mean_batch_weighs_answers() -> None:
    assert LOAD.mean_batch == pytest.approx((150 * 1 + 50 * 4) / 200)
    assert dataclasses.replace(LOAD, batch_sizes={}).mean_batch == 0


def test_batches_are_counted_by_size_from_the_metrics() -> None:
    metrics = Metrics()
    for size in (1, 2, 2, 5):
        metrics.batches.labels("dlib-resnet", str(size)).inc()
    metrics.batches.labels("mtcnn", "3").inc()
    text = metrics.render().decode()
    assert batches_of(text, "dlib-resnet") == {1: 1, 2: 2, 5: 1}
    assert batches_of(text, "none") == {}


def test_layouts_use_every_core() -> None:
    for layout in layouts():
        assert layout.processes * layout.threads == len(os.sched_getaffinity(0))


def test_arguments_of_the_generator() -> None:
    given = arguments("127.0.0.1:1", "/x", [Path("a")], connections=3, requests=7, headers={"A": "b"})
    options = " ".join(given)
    assert options == "-c 3 -s 10.0 -t 30.0 -T image/jpeg -n 7 -H A: b 127.0.0.1:1 /x a"
    assert "A: b" in given, "a header is one argument"


def test_each_picture_begins_a_request_and_its_neighbour_is_the_second(tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("a", "b", "c")]
    assert requests_of(TASKS["embed"], pictures) == [(picture,) for picture in pictures]
    assert [a.name + b.name for a, b in requests_of(TASKS["verify"], pictures)] == ["ab", "bc", "ca"]


def test_multipart_bodies_hold_the_pictures_and_go_afterwards(tmp_path: Path) -> None:
    (tmp_path / "person").mkdir()
    (tmp_path / "person" / "0.jpg").write_bytes(b"\xff\xd8 first \r\n--")
    (tmp_path / "1.jpg").write_bytes(b"second")
    pictures, work = images_in(tmp_path), TASKS["verify"]
    with bodies_of(work, pictures) as bodies:
        assert len(bodies) == 2
        document = f"Content-Type: {work.content_type}\r\n\r\n".encode() + bodies[1].read_bytes()
        parts = {
            part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True)
            for part in email.message_from_bytes(document).walk()
            if not part.is_multipart()
        }
    assert parts == {"a": b"\xff\xd8 first \r\n--", "b": b"second"}
    assert not bodies[0].exists()
    with bodies_of(TASKS["classify"], pictures) as bodies:
        assert bodies == pictures, "a single picture is its own body"


def test_no_pictures_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--images"):
        images_in(tmp_path)


def test_a_closed_port_has_no_status() -> None:
    assert status(f"127.0.0.1:{free_port()}", "/readyz") is None


def test_a_gallery_travels_with_its_image() -> None:
    work = TASKS["identify"]
    known = known_faces(work.gallery)
    request = pb.IdentifyFaceRequest.FromString(message_to(work, [b"image"]))
    assert (request.image, len(request.gallery)) == (b"image", work.gallery)
    for entry, face in zip(request.gallery, known, strict=True):
        assert (entry.name, list(entry.embedding)) == (face["name"], face["embedding"])
    form = f"Content-Type: {work.content_type}\r\n\r\n".encode() + body(work, [b"image"])
    image, gallery = (
        part.get_payload(decode=True)
        for part in email.message_from_bytes(form).walk()
        if not part.is_multipart()
    )
    assert image == b"image"
    assert json.loads(bytes(gallery)) == known


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300_000])
def test_messages_are_protobuf(size: int) -> None:
    one, two = bytes(size), b"b" * size
    assert pb.ClassifyRequest.FromString(message([one])).image == one
    both = pb.VerifyFacesRequest.FromString(message([one, two]))
    assert (both.a, both.b) == (one, two)
    methods = pb.DESCRIPTOR.services_by_name["Vision"].methods_by_name
    assert {work.method.rpartition("/")[2] for work in TASKS.values()} <= set(methods)
