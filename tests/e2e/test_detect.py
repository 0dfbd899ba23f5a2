"""Detection over real HTTP: every parameter, several images, and the picture."""

from __future__ import annotations

import io
import json

import httpx
import pytest
from PIL import Image

from models.checkpoint import read_labels
from models.training.yolo.evaluate import detect_over_http, precision
from models.training.yolo.folder import Folder
from tests.paths import SHARED, needs_shared
from tests.server import Server

pytestmark = [pytest.mark.e2e, needs_shared]
JPEG = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def person() -> bytes:
    return (SHARED / "data" / "photos" / "person.jpg").read_bytes()


def detect(client: httpx.Client, data: bytes, **parameters: object) -> dict[str, object]:
    answer = client.post("/v1/detect", params=parameters, content=data, headers=JPEG)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    body: dict[str, object] = answer.json()
    return body


def test_a_person_is_found_and_its_box_lies_in_the_picture(client: httpx.Client, person: bytes) -> None:
    body = detect(client, person)
    assert body["model"] == "efficientdet-lite0"
    size = body["image"]
    first = next(item for item in body["detections"] if item["label"] == "person")  # type: ignore[attr-defined]
    assert first["score"] > 0.5
    x1, y1, x2, y2 = first["box"]
    assert 0 <= x1 < x2 <= size["width"]  # type: ignore[index]
    assert 0 <= y1 < y2 <= size["height"]  # type: ignore[index]


def test_box_formats_and_normalized(client: httpx.Client, person: bytes) -> None:
    body = detect(client, person)
    width, height = body["image"]["width"], body["image"]["height"]  # type: ignore[index]
    x1, y1, x2, y2 = body["detections"][0]["box"]  # type: ignore[index]

    def first(**parameters: object) -> list[float]:
        return detect(client, person, **parameters)["detections"][0]["box"]  # type: ignore[index,no-any-return]

    assert first(box_format="xywh") == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.05)
    assert first(box_format="cxcywh") == pytest.approx(
        [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], abs=0.05
    )
    shares = [x1 / width, y1 / height, x2 / width, y2 / height]
    assert first(normalized="true") == pytest.approx(shares, abs=1e-4)


def test_thresholds_and_limits(client: httpx.Client, person: bytes) -> None:
    many = detect(client, person, score_threshold=0.01, iou_threshold=1)["detections"]
    scores = [item["score"] for item in many]  # type: ignore[attr-defined]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 1
    assert (
        len(detect(client, person, score_threshold=0.01, iou_threshold=1, max_detections=1)["detections"])
        == 1
    )  # type: ignore[arg-type]
    assert detect(client, person, score_threshold=1)["detections"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", "1.5"),
        ("iou_threshold", "-0.1"),
        ("score_threshold", "nan"),
        ("max_detections", "0"),
        ("max_detections", "1001"),
        ("classes", "unicorn"),
        ("classes", ""),
        ("box_format", "yxyx"),
        ("normalized", "perhaps"),
    ],
)
def test_a_bad_parameter_is_named(client: httpx.Client, person: bytes, name: str, value: str) -> None:
    answer = client.post(f"/v1/detect?{name}={value}", content=person, headers=JPEG)
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid"), answer.text
    assert answer.json()["parameter"] == name


@pytest.mark.parametrize("size", [(1, 1), (8000, 40), (40, 8000)])
def test_odd_pictures_give_an_empty_list(client: httpx.Client, size: tuple[int, int]) -> None:
    out = io.BytesIO()
    Image.new("RGB", size, (90, 120, 60)).save(out, "JPEG")
    body = detect(client, out.getvalue())
    assert body["image"] == {"width": size[0], "height": size[1]}
    assert body["detections"] == []


def test_several_images_equal_each_alone(client: httpx.Client, person: bytes, dog: bytes) -> None:
    files = [("image", person), ("image", b"nothing"), ("image", dog), ("image", person)]
    results = client.post("/v1/detect", files=files).json()["results"]
    assert results[1]["code"] == "media_type"
    for result, data in ((results[0], person), (results[2], dog), (results[3], person)):
        alone = detect(client, data)["detections"]
        assert len(result["detections"]) == len(alone)  # type: ignore[arg-type]
        for mine, theirs in zip(result["detections"], alone, strict=True):  # type: ignore[call-overload]
            assert mine["box"] == pytest.approx(theirs["box"], abs=0.5)
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-3)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_the_annotated_picture(client: httpx.Client, person: bytes, kind: str) -> None:
    answer = client.post("/v1/detect", content=person, headers={**JPEG, "Accept": f"image/{kind}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == f"image/{kind}"
    assert int(answer.headers["x-batch-size"]) >= 1
    drawn = Image.open(io.BytesIO(answer.content))
    assert drawn.format == kind.upper()
    assert drawn.size == Image.open(io.BytesIO(person)).size


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("dog", {"dog", "bicycle", "car"}),
        ("horses", {"horse"}),
        ("kite", {"kite", "person"}),
        ("giraffe", {"giraffe"}),
        ("eagle", {"bird"}),
        ("person", {"person", "horse", "dog"}),
    ],
)
def test_the_right_things_come_first(client: httpx.Client, name: str, labels: set[str]) -> None:
    body = detect(client, (SHARED / "data" / "photos" / f"{name}.jpg").read_bytes())
    found = [item["label"] for item in body["detections"]]  # type: ignore[attr-defined]
    assert set(found[: len(labels)]) == labels


def test_classes_are_the_card_s_labels_in_any_case(client: httpx.Client, dog: bytes) -> None:
    labels = client.get("/v1/models/efficientdet-lite0").json()["labels"]
    assert len(labels) == 80
    assert {"dog", "hot dog", "traffic light"} <= set(labels)
    found = detect(client, dog, classes="Traffic Light,DOG")["detections"]
    assert [item["label"] for item in found] == ["dog"]  # type: ignore[attr-defined]


def test_average_precision_over_80_classes(server: Server) -> None:
    root = SHARED / "data" / "coco80"
    labels = read_labels(root / "coco.names")
    samples = Folder.read(root / "val", classes=len(labels)).samples
    found, _ = detect_over_http(server.url, "efficientdet-lite0", samples, labels)
    crowds = json.loads((root / "crowd.json").read_text(encoding="utf-8"))
    assert precision(samples, found, len(labels), crowds).ap50 >= 0.52
