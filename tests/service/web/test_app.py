"""The HTTP application in process: what a bug looks like from outside, and how requests are counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import cv2
import httpx
import numpy as np
import pytest
from starlette.requests import ClientDisconnect

from service.app import Service
from service.engine.runner import Runner
from service.engine.torch_executor import TorchExecutor
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.web.app import Application
from tests.service.doubles import MeanPipeline

PNG = bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1])


def with_client(test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> Metrics:
    """Serves a pipeline whose results are not what the route expects: a bug, made on purpose."""
    metrics = Metrics()

    async def go() -> None:
        pipeline = MeanPipeline()
        runner = Runner(pipeline, TorchExecutor(pipeline, "cpu"), metrics, max_batch=2, max_queue=8)
        service = Service(Settings(), [runner], metrics)
        await service.start()
        app = Application(service)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await test(client)
        await service.engine.drain(1)

    asyncio.run(go())
    return metrics


def counted(metrics: Metrics, task: str, code: str) -> float | None:
    labels = {"task": task, "transport": "http", "code": code}
    return metrics.registry.get_sample_value("lynceus_requests_total", labels)


def test_an_internal_error_is_a_problem_that_leaks_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify", content=PNG, headers={"X-Request-ID": "this-one"})
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == "this-one"
        assert answer.json()["code"] == "internal"
        assert "tuple" not in answer.text

    with caplog.at_level(logging.ERROR):
        metrics = with_client(test)
    assert "this-one" in caplog.text
    assert "AttributeError" in caplog.text
    assert counted(metrics, "classify", "internal") == 1


def test_a_client_that_hangs_up_half_way_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield PNG[:20]
        raise ClientDisconnect  # what reading the body says then

    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/classify", content=half())).status_code == 499

    with caplog.at_level(logging.ERROR):
        metrics = with_client(test)
    assert caplog.records == []
    assert counted(metrics, "classify", "cancelled") == 1


def test_a_request_refused_before_its_handler_is_counted_too() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/classify?top_k=0", content=PNG)).status_code == 422
        assert (await client.post("/v1/nothing", content=PNG)).status_code == 404

    metrics = with_client(test)
    assert counted(metrics, "classify", "parameter_invalid") == 1
    assert counted(metrics, "nothing", "not_found") is None
