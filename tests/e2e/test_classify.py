"""Classification over real HTTP, and every header out; `tests/golden` has every way in."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest

from tests.paths import SHARED, needs_shared
from tests.server import Server

pytestmark = pytest.mark.e2e
JPEG = {"content-type": "image/jpeg"}
DOGS = range(151, 269)


def test_a_photo_of_a_dog_gives_a_breed_first(client: httpx.Client, dog: bytes) -> None:
    answer = client.post("/v1/classify", content=dog, headers=JPEG)
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == "efficientnet-lite0"
    assert body["image"] == {"width": 768, "height": 576}
    assert len(body["labels"]) == 5
    assert body["labels"][0]["index"] in DOGS
    scores = [label["score"] for label in body["labels"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) <= 1


def test_headers_tell_the_id_the_time_and_the_batch(client: httpx.Client, dog: bytes) -> None:
    answer = client.post("/v1/classify", content=dog, headers={**JPEG, "X-Request-ID": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert re.fullmatch(
        r"decode;dur=[\d.]+, queue;dur=[\d.]+, compute;dur=[\d.]+", answer.headers["server-timing"]
    )
    assert int(answer.headers["x-batch-size"]) >= 1
    made = client.post("/v1/classify", content=dog, headers={**JPEG, "X-Request-ID": "two words"})
    assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])


def test_several_images_are_answered_in_order_each_alone(client: httpx.Client, dog: bytes) -> None:
    files = [("image", ("a", dog)), ("image", ("b", b"\xff\xd8\xff nothing")), ("image", ("c", dog))]
    answer = client.post("/v1/classify?top_k=1", files=files)
    assert answer.status_code == 200
    first, second, third = answer.json()["results"]
    assert first["labels"][0]["index"] == third["labels"][0]["index"]
    assert second["code"] == "image_invalid"
    assert second["status"] == 400


def test_another_model_is_one_parameter_away(client: httpx.Client, dog: bytes) -> None:
    body = client.post("/v1/classify?model=lenet5&top_k=10", content=dog, headers=JPEG).json()
    assert body["model"] == "lenet5"
    assert sum(label["score"] for label in body["labels"]) == pytest.approx(1, abs=1e-4)


@needs_shared
def test_at_least_85_percent_of_the_imagenet_sample_is_right(server: Server) -> None:
    paths = sorted((SHARED / "data" / "imagenet-sample").glob("*.jpg"))
    assert len(paths) == 200

    async def ask() -> int:
        slots = asyncio.Semaphore(12)  # under the queue of 16, so that nothing is refused

        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def right(index: int, data: bytes) -> bool:
                async with slots:
                    answer = await client.post("/v1/classify?top_k=1", content=data, headers=JPEG)
                assert answer.status_code == 200, answer.text
                return bool(answer.json()["labels"][0]["index"] == index)

            return sum(await asyncio.gather(*(right(int(p.name[:3]), p.read_bytes()) for p in paths)))

    assert asyncio.run(ask()) >= 170


def test_the_documentation_names_every_route(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v1/classify", "/v1/classify/explain", "/v1/detect", "/v1/models", "/v1/models/{name}"):
        assert path in paths
    assert client.get("/docs").status_code == 200


def test_models_are_listed_with_their_digest(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()["models"]
    lite = next(model for model in listed if model["name"] == "efficientnet-lite0")
    assert lite["default"]
    assert lite["ready"]
    assert lite["executor"] == "openvino"
    assert lite["sha256"] == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    card = client.get("/v1/models/efficientnet-lite0").json()
    assert len(card["labels"]) == 1000
    assert json.dumps(card["details"])


def test_metrics_count_what_was_asked_over_all_workers(client: httpx.Client, dog: bytes) -> None:
    def count() -> float:
        text = client.get("/metrics").text
        found = re.search(
            r'^lynceus_requests_total\{code="ok",task="classify",transport="http"\} (\S+)$', text, re.M
        )
        return float(found[1]) if found else 0.0

    before = count()
    for _ in range(6):
        # a new connection each, so that both workers are asked
        httpx.post(f"{client.base_url}/v1/classify", content=dog, headers=JPEG, timeout=60)
    assert count() == before + 6
    text = client.get("/metrics").text
    for name in (
        "request_seconds",
        "stage_seconds",
        "batch_size",
        "queue_depth",
        "inflight_batches",
        "model_info",
    ):
        assert f"lynceus_{name}" in text
