"""Style transfer with the network that is served: over real HTTP and gRPC, on a real photo."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.rpc.stubs import vision_pb2 as pb
from service.rpc.stubs.vision_pb2_grpc import VisionStub
from tests.paths import needs_shared
from tests.server import Server

pytestmark = [pytest.mark.e2e, needs_shared]
STYLES = ("starry_night", "the_scream", "great_wave", "udnie", "shipwreck")
PNG = {"content-type": "image/jpeg", "accept": "image/png"}
ALIKE = 2  # levels: a batch may be computed in another order


def pixels(picture: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(np.int64)


@pytest.fixture(scope="module")
def alone(client: httpx.Client, dog: bytes) -> dict[str, NDArray[np.int64]]:
    """The photo in every style, asked for one after another."""
    found = {}
    for style in STYLES:
        answer = client.post("/v1/stylize", params={"style": style}, content=dog, headers=PNG)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "image/png"
        found[style] = pixels(answer.content)
    return found


def test_the_five_styles_are_listed_with_thumbnails(client: httpx.Client) -> None:
    styles = client.get("/v1/styles").json()["styles"]
    assert [style["name"] for style in styles] == list(STYLES)
    for style in styles:
        thumbnail = client.get(style["thumbnail"])
        assert thumbnail.headers["content-type"] == "image/jpeg"
        assert min(pixels(thumbnail.content).shape[:2]) > 50


def test_each_style_is_a_picture_of_its_own(alone: dict[str, NDArray[np.int64]], dog: bytes) -> None:
    photo = pixels(dog)
    for style, painted in alone.items():
        assert painted.shape == photo.shape
        assert np.abs(painted - photo).mean() > 15
        assert all(np.abs(painted - other).mean() > 10 for name, other in alone.items() if name != style)


def test_styles_that_share_a_batch_are_what_they_are_alone(
    client: httpx.Client, alone: dict[str, NDArray[np.int64]], dog: bytes
) -> None:
    def paint(style: str) -> httpx.Response:
        return client.post("/v1/stylize", params={"style": style}, content=dog, headers=PNG)

    wanted = STYLES * 2
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(paint, wanted))
    for style, answer in zip(wanted, answers, strict=True):
        assert answer.status_code == 200, answer.text
        assert np.abs(pixels(answer.content) - alone[style]).max() <= ALIKE
    assert max(int(answer.headers["x-batch-size"]) for answer in answers) > 1


def test_grpc_gives_the_same_picture(server: Server, alone: dict[str, NDArray[np.int64]], dog: bytes) -> None:
    wanted = pb.StylizeRequest(image=dog, style="great_wave", format=pb.PICTURE_FORMAT_PNG)
    with grpc.insecure_channel(server.grpc_address) as channel:
        reply = VisionStub(channel).Stylize(wanted, timeout=60)
    assert reply.model == "paintings"
    assert np.abs(pixels(reply.picture) - alone["great_wave"]).max() <= ALIKE
