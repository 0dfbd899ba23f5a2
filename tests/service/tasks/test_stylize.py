"""Stylized pictures through both transports: size, formats, strength, styles sharing a batch."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.image import encode
from service.rpc.stubs import vision_pb2 as pb
from tests.models.style.small import STYLES, picture
from tests.service.transports import Transports, open_transports, style_pipeline

PIXELS = picture(45, 61)
PNG = encode(PIXELS, "png")


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    with open_transports([style_pipeline()]) as transports:
        yield transports


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    ("accept", "kind", "number"),
    [
        ("*/*", "jpeg", pb.PICTURE_FORMAT_UNSPECIFIED),
        ("image/jpeg", "jpeg", pb.PICTURE_FORMAT_JPEG),
        ("image/png", "png", pb.PICTURE_FORMAT_PNG),
        ("image/webp", "webp", pb.PICTURE_FORMAT_WEBP),
        ("application/json", "jpeg", pb.PICTURE_FORMAT_JPEG),
    ],
)
def test_the_answer_is_a_picture_of_the_same_size(
    transports: Transports, accept: str, kind: str, number: int
) -> None:
    http = transports.http("POST", "/v1/stylize", content=PNG, headers={"accept": accept})
    reply = transports.stub.Stylize(pb.StylizeRequest(image=PNG, format=number))  # type: ignore[arg-type]
    assert http.headers["content-type"] == f"image/{kind}"
    assert http.headers["x-batch-size"] == "1"
    assert http.content == reply.picture
    assert Image.open(io.BytesIO(reply.picture)).format == kind.upper()
    assert (reply.image.width, reply.image.height) == Image.open(io.BytesIO(http.content)).size == (61, 45)


def test_strength_nothing_is_the_picture_itself(transports: Transports) -> None:
    options = {"headers": {"accept": "image/png"}, "content": PNG}
    itself = transports.http("POST", "/v1/stylize?strength=0", **options).content
    assert np.array_equal(pixels_of(itself), PIXELS)
    whole = pixels_of(transports.http("POST", "/v1/stylize?style=lines", **options).content).astype(int)
    half = pixels_of(transports.http("POST", "/v1/stylize?style=lines&strength=0.5", **options).content)
    assert np.abs(half - (whole + PIXELS) / 2).max() <= 1


def test_different_styles_share_a_batch_and_give_what_they_give_alone(transports: Transports) -> None:
    names = [style.name for style in STYLES]

    def ask(name: str) -> pb.StylizeRequest:
        return pb.StylizeRequest(image=PNG, style=name, format=pb.PICTURE_FORMAT_PNG)

    alone = [pixels_of(transports.stub.Stylize(ask(name)).picture).astype(int) for name in names]
    assert min(np.abs(alone[0] - other).mean() for other in alone[1:]) > 1

    runner = transports.engine.runners["styles"]
    run, gate = runner._run_batch, asyncio.Event()

    async def late(jobs: object) -> object:
        await gate.wait()
        return await run(jobs)  # type: ignore[arg-type]

    runner._batcher._run = late  # type: ignore[assignment]
    try:
        calls = [transports.stub.Stylize.future(ask(name)) for name in [*names, *names]]

        async def open_gate() -> None:
            while runner._admitted < len(calls):  # noqa: ASYNC110 (nothing tells of an admission)
                await asyncio.sleep(0.01)
            gate.set()

        transports.run(open_gate())
        together = [pixels_of(call.result(30).picture) for call in calls]
        sizes = [int(str(dict(call.trailing_metadata())["x-batch-size"])) for call in calls]
    finally:
        runner._batcher._run = run
    assert max(sizes) == 2
    for index, pixels in enumerate(together):
        assert np.abs(pixels - alone[index % len(names)]).max() <= 1


def test_styles_are_listed_with_their_thumbnails(transports: Transports) -> None:
    listed = transports.http("GET", "/v1/styles").json()["styles"]
    styles = transports.stub.ListStyles(pb.ListStylesRequest()).styles
    assert (
        [style["name"] for style in listed] == [style.name for style in styles] == ["dots", "lines", "waves"]
    )
    assert [style["title"] for style in listed] == [style.title for style in styles]
    assert listed[0]["thumbnail"] == "/v1/styles/dots/thumbnail"
    assert listed[1]["thumbnail"] is None
    answer = transports.http("GET", listed[0]["thumbnail"])
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content == styles[0].thumbnail
    for name in ("lines", "none"):
        refused = transports.http("GET", f"/v1/styles/{name}/thumbnail")
        assert (refused.status_code, refused.json()["code"]) == (404, "style_unknown")
        assert "dots" in refused.json()["detail"]


def test_an_unknown_style_is_told_the_known_ones(transports: Transports) -> None:
    refused = transports.http("POST", "/v1/stylize?style=none", content=PNG)
    assert all(style.name in refused.json()["detail"] for style in STYLES)


def test_without_a_style_network_there_are_none(
    monkeypatch: pytest.MonkeyPatch, transports: Transports
) -> None:
    monkeypatch.setattr(transports.engine, "runners", {})
    monkeypatch.setattr(transports.engine, "_defaults", {})
    assert transports.http("GET", "/v1/styles").json() == {"styles": []}
    refused = transports.http("POST", "/v1/stylize", content=PNG)
    assert (refused.status_code, refused.json()["code"]) == (404, "model_unknown")
