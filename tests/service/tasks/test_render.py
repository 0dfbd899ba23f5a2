"""Answers that are images share the memory of a worker without waiting for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import cv2
import httpx
import numpy as np
import pytest

from models.image import plan
from tests.service.transports import Transports, open_transports, pipeline, style_pipeline

LARGE = bytes(cv2.imencode(".png", np.zeros((2500, 4000, 3), np.uint8))[1])
MEMORY = 80 << 20
MANY = 5


@pytest.fixture(scope="module")
def transports() -> Iterator[Transports]:
    models = [pipeline("yolo-person"), style_pipeline()]
    with open_transports(models, decode_memory_bytes=MEMORY) as transports:
        yield transports


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/stylize?strength=0.5"])
def test_many_large_images_drawn_at_once(transports: Transports, path: str) -> None:
    needed = plan(LARGE, max_pixels=6_000_000)
    assert needed.large
    assert MANY * needed.result > MEMORY  # all of them together would not fit

    async def all_of_them() -> list[httpx.Response]:
        headers = {"accept": "image/webp", "content-type": "image/png"}
        calls = [
            transports._client.post(path, content=LARGE, headers=headers, timeout=120) for _ in range(MANY)
        ]
        return await asyncio.gather(*calls)

    answers = transports.run(all_of_them())
    assert [answer.status_code for answer in answers] == [200] * MANY
    assert transports.engine.memory.used == 0
