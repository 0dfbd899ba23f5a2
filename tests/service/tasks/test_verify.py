"""Verification and how it looks for the largest face."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from models.image import Image, decode, resize
from tests.paths import ROOT
from tests.service.transports import Transports, open_transports, pipeline

SAMPLE = (ROOT / "service" / "web" / "ui" / "sample-astronaut.jpg").read_bytes()


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([pipeline("mtcnn"), pipeline("dlib-resnet")]) as transports:
        yield transports


def on_grey(image: Image, side: int) -> bytes:
    """The image, `side` pixels wide, in a corner of a square of 640."""
    canvas = np.full((640, 640, 3), 127, np.uint8)
    height = round(image.height * side / image.width)
    canvas[:height, :side] = resize(image.pixels, height, side)
    return bytes(cv2.imencode(".png", canvas[..., ::-1])[1])


def test_the_face_is_the_largest_that_detection_finds(transports: Transports) -> None:
    """By one look for a large face, by another one for a small face."""
    small = on_grey(decode(SAMPLE), 200)
    answer = transports.http("POST", "/v1/faces/verify", files={"a": SAMPLE, "b": small}).json()
    assert answer["verified"]
    for name, data in (("a", SAMPLE), ("b", small)):
        found = transports.http("POST", "/v1/faces/detect", content=data).json()
        (face,) = found["faces"]
        assert answer["faces"][name]["box"] == pytest.approx(face["box"], abs=0.5)
        assert answer["faces"][name]["landmarks"] == pytest.approx(np.array(face["landmarks"]), abs=0.5)
        looked = answer["search"][name]["min_face"] / found["search"]["min_face"]
        assert looked == pytest.approx(1) if name == "b" else looked > 3
