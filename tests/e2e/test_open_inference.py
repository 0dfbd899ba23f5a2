"""tritonclient against a real server of two workers: it lists, inspects and infers; the answers are /v1's."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.paths import SHARED, needs_shared
from tests.server import Server

pytestmark = [pytest.mark.e2e, needs_shared]
PICTURES = {
    "efficientnet-lite0": ["data/photos/dog.jpg", "data/photos/dog.jpg"],
    "lenet5": ["data/photos/dog.jpg"],
    "efficientdet-lite0": ["data/faces/groups/two_people.jpg", "data/photos/dog.jpg"],
    "yolo-person": ["data/faces/groups/two_people.jpg", "data/photos/dog.jpg"],
    "mtcnn": ["data/faces/groups/two_people.jpg"],
    "paintings": ["data/photos/dog.jpg"],
    "dlib-resnet": ["data/faces/groups/two_people.jpg"],
}
SHAPES = {
    "efficientnet-lite0": [224, 224, 3],
    "lenet5": [32, 32, 3],
    "efficientdet-lite0": [448, 448, 3],
    "yolo-person": [512, 512, 3],
    "dlib-resnet": [150, 150, 3],
}
MODELS = sorted(PICTURES)
FORMS = ["efficientnet-lite0", "mtcnn", "paintings"]
"""Of which every form of a request is sent: outputs of one shape, of several, of bytes."""


def picture(name: str) -> bytes:
    return (SHARED / name).read_bytes()


@pytest.fixture(scope="module")
def seen(server: Server) -> dict[str, Any]:
    """What the client saw, of all its four forms."""
    wish = {
        "pictures": {
            model: [base64.b64encode(picture(name)).decode() for name in names]
            for model, names in PICTURES.items()
        },
        "pixels": SHAPES,
        "forms": FORMS,
    }
    script = Path(__file__).with_name("triton_client.py")
    addresses = [f"127.0.0.1:{server.port}", server.grpc_address]
    done = subprocess.run(
        [sys.executable, str(script), *addresses],
        input=json.dumps(wish).encode(),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def array(tensor: dict[str, Any]) -> Any:
    return np.reshape(tensor["data"], tensor["shape"])


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor["dtype"], tensor["shape"]) == (other[name]["dtype"], other[name]["shape"])
        if tensor["dtype"] == "object":
            for text, another in zip(tensor["data"], other[name]["data"], strict=True):
                alike(base64.b64decode(text), base64.b64decode(another))
            continue
        np.testing.assert_allclose(array(tensor), array(other[name]), rtol=1e-3, atol=1e-3)


def alike(one: bytes, other: bytes) -> None:
    """Two pictures that may have been computed in batches of different sizes, and are JPEGs."""
    here, there = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (one, other))
    assert here.shape == there.shape
    assert np.abs(here - there).mean() < 0.5


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_it_lists_and_inspects(seen: dict[str, Any], transport: str) -> None:
    told = seen[transport]
    assert told["live"] is told["ready"] is True
    assert "statistics" in told["server"]["extensions"]
    states = {entry["name"]: entry["state"] for entry in told["index"]}
    assert dict.fromkeys(MODELS, "READY").items() <= states.items()
    for model, found in told["models"].items():
        assert found["ready"] is True
        assert found["metadata"]["name"] == found["config"]["name"] == model
        shapes = {entry["name"]: entry["shape"] for entry in found["metadata"]["inputs"]}
        assert [int(size) for size in shapes["image"]] == [-1, 1]
        if model in SHAPES:
            assert [int(size) for size in shapes["pixels"]] == [-1, *SHAPES[model]]
        else:
            assert "pixels" not in shapes
        assert int(found["config"]["max_batch_size"]) == 8


@pytest.mark.parametrize("model", MODELS)
def test_both_transports_give_one_answer(seen: dict[str, Any], model: str) -> None:
    found = seen["http"]["models"][model]
    same(seen["grpc"]["models"][model]["binary"], found["binary"])
    if model in SHAPES:
        same(seen["grpc"]["models"][model]["pixels"], found["pixels"])
        assert all(tensor["shape"][0] == 2 for tensor in found["pixels"].values())


@pytest.mark.parametrize("model", FORMS)
def test_every_form_of_the_client_gets_one_answer(seen: dict[str, Any], model: str) -> None:
    found = seen["http"]["models"][model]
    for form in ("json", "gzip", "deflate", "async"):
        same(found[form], found["binary"])
    same(seen["aio"]["http"][model], found["binary"])
    same(seen["aio"]["grpc"][model], found["binary"])
    first, broken, last = seen["aio"]["stream"][model]
    same(first, found["binary"])
    same(last, found["binary"])
    assert "format" in broken or "picture" in broken


def test_the_answers_are_v1s(seen: dict[str, Any], client: httpx.Client) -> None:
    models = seen["http"]["models"]
    group, dog = picture("data/faces/groups/two_people.jpg"), picture("data/photos/dog.jpg")
    scores = array(models["efficientnet-lite0"]["binary"]["scores"])
    assert scores.shape == (2, 1000)
    labels = client.post("/v1/classify?top_k=3", content=dog).json()["labels"]
    for row in scores:
        np.testing.assert_allclose(
            [row[label["index"]] for label in labels], [label["score"] for label in labels], atol=1e-3
        )
    for transport in ("http", "grpc"):
        texts = seen[transport]["models"]["efficientnet-lite0"]["classes"]["scores"]["data"][:3]
        assert [text.split(":", 1)[1] for text in texts] == [
            f"{label['index']}:{label['label']}" for label in labels
        ]

    found = {name: array(tensor) for name, tensor in models["efficientdet-lite0"]["binary"].items()}
    for index, content in enumerate((group, dog)):
        usual = client.post("/v1/detect", content=content).json()["detections"]
        assert found["counts"][index] == len(usual)
        boxes = np.reshape([one["box"] for one in usual], (-1, 4))
        np.testing.assert_allclose(found["boxes"][index, : len(usual)], boxes, atol=1)

    usual = client.post("/v1/faces/embed", content=group).json()["faces"]
    faces = {name: array(tensor)[0] for name, tensor in models["mtcnn"]["binary"].items()}
    np.testing.assert_allclose(faces["boxes"], [one["box"] for one in usual], atol=0.5)
    np.testing.assert_allclose(faces["landmarks"], [one["landmarks"] for one in usual], atol=0.5)
    embeddings = array(models["dlib-resnet"]["binary"]["embeddings"])[0]
    np.testing.assert_allclose(embeddings, [one["embedding"] for one in usual], atol=1e-2)

    painted = models["paintings"]["binary"]["picture"]["data"][0]
    alike(base64.b64decode(painted), client.post("/v1/stylize", content=dog).content)


def test_errors_have_the_tables_status(seen: dict[str, Any]) -> None:
    assert seen["http"]["unknown"] is False
    assert seen["http"]["error"][0] == "404"
    assert seen["http"]["bad"][0] == "415"
    assert "image[1]" in seen["http"]["bad"][1]
    assert seen["grpc"]["error"][0] == "StatusCode.NOT_FOUND"
    assert seen["grpc"]["late"][0] == "StatusCode.DEADLINE_EXCEEDED"


def test_the_statistics_are_those_of_both_workers(seen: dict[str, Any], client: httpx.Client) -> None:
    def count(model: str) -> tuple[int, int]:
        (stats,) = client.get(f"/v2/models/{model}/stats").json()["model_stats"]
        return stats["inference_count"], stats["execution_count"]

    before = count("efficientnet-lite0")
    dog = picture("data/photos/dog.jpg")
    headers = {"Inference-Header-Content-Length": "0"}
    for _ in range(12):  # each on a connection of its own, so that both workers get some
        fresh = httpx.post(
            str(client.base_url) + "/v2/models/efficientnet-lite0/infer",
            content=dog,
            headers=headers,
            timeout=60,
        )
        assert fresh.status_code == 200
    for _ in range(6):
        after = count("efficientnet-lite0")
        assert after[0] - before[0] == 12
        assert after[1] - before[1] <= 12
    told = seen["grpc"]["models"]["efficientnet-lite0"]["statistics"]
    assert int(told["inference_count"]) >= int(told["execution_count"]) > 0
    assert int(told["inference_stats"]["queue"]["count"]) > 0
