"""Explanations over real HTTP: heat, windows and filters, as pictures and as numbers."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.e2e
JPEG = {"content-type": "image/jpeg"}
JSON = {**JPEG, "Accept": "application/json"}
DOG = (120, 200, 320, 540)  # where the dog is in the photo: x1, y1, x2, y2


def test_the_heat_lies_on_the_dog(client: httpx.Client, dog: bytes) -> None:
    body = client.post("/v1/classify/explain", content=dog, headers=JSON).json()
    assert body["label"] == "German shepherd"
    heat = np.array(body["heat"])
    assert heat.min() >= 0
    assert heat.max() == pytest.approx(1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    x1, y1, x2, y2 = body["region"]
    x = x1 + (column + 0.5) / heat.shape[1] * (x2 - x1)
    y = y1 + (row + 0.5) / heat.shape[0] * (y2 - y1)
    assert DOG[0] <= x <= DOG[2]
    assert DOG[1] <= y <= DOG[3]


@pytest.mark.parametrize(("accept", "kind"), [("*/*", "JPEG"), ("image/png", "PNG"), ("image/webp", "WEBP")])
def test_the_heat_as_a_picture(client: httpx.Client, dog: bytes, accept: str, kind: str) -> None:
    answer = client.post("/v1/classify/explain", content=dog, headers={**JPEG, "Accept": accept})
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == (kind, (768, 576))
    assert "compute" in answer.headers["server-timing"]


def test_windows_of_a_label(client: httpx.Client, dog: bytes) -> None:
    parameters: dict[str, str] = {"kind": "windows", "label": "malamute", "score_threshold": "0.1"}
    body = client.post("/v1/classify/explain", params=parameters, content=dog, headers=JSON).json()
    scores = np.array(body["scores"])
    assert 0 <= scores.min() <= scores.max() <= 1
    best = body["boxes"][0]
    assert best["score"] == pytest.approx(scores.max(), abs=1e-5)
    x1, y1, x2, y2 = best["box"]
    assert x1 < (DOG[0] + DOG[2]) / 2 < x2
    assert y1 < (DOG[1] + DOG[3]) / 2 < y2
    drawn = client.post("/v1/classify/explain", params=parameters, content=dog, headers=JPEG)
    assert Image.open(io.BytesIO(drawn.content)).size == (768, 576)


@pytest.mark.parametrize(
    ("name", "value"), [("label", "unicorn"), ("kind", "guess"), ("fraction", "0"), ("fraction", "0.001")]
)
def test_a_bad_parameter_is_named(client: httpx.Client, dog: bytes, name: str, value: str) -> None:
    parameters = {"kind": "windows", "label": "malamute"} | {name: value}
    answer = client.post("/v1/classify/explain", params=parameters, content=dog, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid"), answer.text
    assert answer.json()["parameter"] == name


@pytest.mark.parametrize("model", ["efficientnet-lite0", "lenet5"])
def test_filters_as_a_picture(client: httpx.Client, model: str) -> None:
    answer = client.get(f"/v1/models/{model}/filters")
    assert answer.headers["content-type"] == "image/png"
    picture = np.array(Image.open(io.BytesIO(answer.content)))
    assert picture.std() > 20
