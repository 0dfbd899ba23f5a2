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
    assert (picture.format, picture.width) == (kind, 768)
    assert 576 < picture.height < 640  # with its caption
    assert "compute" in answer.headers["server-timing"]
    assert answer.headers["x-explanation"].startswith('cam;index=235;label="German shepherd";score=0.')


@pytest.mark.parametrize("kind", ["saliency", "occlusion"])
def test_what_the_score_depends_on_lies_on_the_dog(client: httpx.Client, dog: bytes, kind: str) -> None:
    body = client.post("/v1/classify/explain", params={"kind": kind}, content=dog, headers=JSON).json()
    assert body["label"] == "German shepherd"
    heat = np.array(body["heat"])
    x1, y1, x2, y2 = body["region"]
    rows, columns = heat.shape
    y = y1 + (np.arange(rows) + 0.5) / rows * (y2 - y1)
    x = x1 + (np.arange(columns) + 0.5) / columns * (x2 - x1)
    on_dog = heat[(y > DOG[1]) & (y < DOG[3])][:, (x > DOG[0]) & (x < DOG[2])].sum()
    assert on_dog > 0.5 * heat.sum()


def test_the_strongest_channels_of_a_layer(client: httpx.Client, dog: bytes) -> None:
    layers = client.get("/v1/models/efficientnet-lite0/layers").json()["layers"]
    chosen = next(layer for layer in layers if layer["name"] == "backbone.blocks.4")
    assert chosen["shape"] == [40, 28, 28]
    parameters = {"kind": "activations", "layer": chosen["name"], "top": "5"}
    body = client.post("/v1/classify/explain", params=parameters, content=dog, headers=JSON).json()
    assert (body["channels"], len(body["activations"])) == (40, 5)
    drawn = client.post("/v1/classify/explain", params=parameters, content=dog, headers=JPEG)
    assert Image.open(io.BytesIO(drawn.content)).width >= 512


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
    assert Image.open(io.BytesIO(drawn.content)).width == 768


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
    assert picture.shape[1] >= 512
    assert picture.std() > 20
