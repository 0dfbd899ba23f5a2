"""Decoding in the model's own thread and in threads of its own: one answer, and bad pictures fail alone."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import cv2
import numpy as np
import pytest

from models.errors import ImageInvalid, ImageTooLarge, ModelUnknown
from models.image import Limits
from models.pipeline import Kind, Prepared
from service.engine.engine import (
    NOT_ALIVE_AFTER,
    NOT_READY_AFTER,
    TOGETHER_NS_PER_PIXEL,
    Engine,
    KeptImage,
    outcome,
    together,
)
from service.engine.memory import MemoryBudget
from service.engine.runner import Runner
from service.engine.torch_executor import TorchExecutor
from service.errors import DeadlineExceeded, NotReady
from service.telemetry.metrics import Metrics
from tests.service.doubles import MeanPipeline, item, make_ready
from tests.service.engine.reserve import reserve


def png(value: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((8, 8, 3), value, np.uint8))[1])


@pytest.mark.parametrize("decoders", [0, 2])
def test_good_and_bad_pictures_together(decoders: int) -> None:
    async def go() -> None:
        pipeline = MeanPipeline()
        metrics = Metrics()
        runner = Runner(pipeline, TorchExecutor(pipeline, "cpu"), metrics, max_batch=8, max_queue=64)
        engine = Engine([runner], metrics, Limits(), decoders, MemoryBudget(1 << 20))
        assert not engine.ready
        with pytest.raises(NotReady, match="starting"):
            await engine.infer(runner, png(1), None, None)
        await make_ready(runner)
        assert engine.ready
        data = [png(value) if value % 5 else b"\x89PNG\r\n\x1a\n broken" for value in range(40)]
        calls = [partial(engine.infer, runner, one, "mine", None) for one in data]
        answers = await together([partial(outcome, call) for call in calls], 8)
        for value, answer in enumerate(answers):
            if value % 5:
                assert not isinstance(answer, Exception)
                assert answer.result == ("mine", float(value))
                assert answer.timing.decode > 0
            else:
                assert isinstance(answer, ImageInvalid)
        with pytest.raises(DeadlineExceeded):
            await engine.infer(runner, png(1), None, time.monotonic() - 1)
        with pytest.raises(ModelUnknown, match="no model serves detect"):
            engine.find(Kind.DETECT, None)
        assert await engine.drain(5)
        assert not engine.ready

    asyncio.run(go())


def test_large_images_are_decoded_apart_with_their_memory_reserved() -> None:
    async def go() -> None:
        pipeline = MeanPipeline()
        runner = Runner(pipeline, TorchExecutor(pipeline, "cpu"), Metrics(), max_batch=2, max_queue=8)
        memory = MemoryBudget(200 << 20)
        engine = Engine([runner], Metrics(), Limits(), 0, memory)
        await make_ready(runner)
        large = bytes(cv2.imencode(".png", np.full((2000, 2000, 3), 7, np.uint8))[1])
        assert (await engine.plan(large)).large
        async with reserve(memory, memory.total):  # a small one needs none of it
            waiting = asyncio.create_task(engine.infer(runner, large, None, None))
            assert (await engine.infer(runner, png(3), None, None)).result == (None, 3.0)
            assert not waiting.done()
        assert (await waiting).result == (None, 7.0)
        with KeptImage(engine.memory) as kept:
            await engine.infer(runner, large, None, None, keep=kept)
            assert kept.image.pixels.shape == (2000, 2000, 3)
            assert memory.used == 3 * 2000 * 2000
        assert memory.used == 0
        with pytest.raises(ImageTooLarge):
            await Engine([runner], Metrics(), Limits(), 0, MemoryBudget(1 << 20)).infer(
                runner, large, None, None
            )
        await engine.drain(5)

    asyncio.run(go())


def test_the_images_of_one_request_may_take_only_so_long_to_decode_together() -> None:
    """The first are answered, whatever stands before the decoding; what one alone may take, one takes."""

    async def go() -> None:
        pipeline = MeanPipeline()
        runner = Runner(pipeline, TorchExecutor(pipeline, "cpu"), Metrics(), max_batch=4, max_queue=64)
        large = bytes(cv2.imencode(".png", np.full((1000, 1000, 3), 7, np.uint8))[1])
        engine = Engine([runner], Metrics(), Limits(max_pixels=1_000_000), 0, MemoryBudget(200 << 20))
        await make_ready(runner)
        seconds = (await engine.plan(large)).cpu_seconds
        fit = int(1e-9 * TOGETHER_NS_PER_PIXEL * 1_000_000 / seconds)
        assert 1 <= fit < 8
        one = partial(engine.infer, runner, large, None, None)
        answers = await together([partial(outcome, one)] * 8, 1)
        assert [isinstance(answer, ImageTooLarge) for answer in answers] == [False] * fit + [True] * (8 - fit)
        # nested, as several images of which each is asked of several models
        pairs = await together([partial(outcome, partial(together, [one, one], 1))] * 8, 1)
        assert sum(isinstance(pair, ImageTooLarge) for pair in pairs) == 8 - fit // 2
        small = await together([partial(outcome, partial(engine.infer, runner, png(3), None, None))] * 32, 4)
        assert not any(isinstance(answer, Exception) for answer in small)
        await one()  # a request of its own
        await engine.drain(5)

    asyncio.run(go())


def test_a_model_whose_call_hangs_is_not_ready_and_much_longer_not_alive() -> None:
    async def go() -> None:
        pipeline = MeanPipeline()
        runner = Runner(pipeline, TorchExecutor(pipeline, "cpu"), Metrics(), max_batch=2, max_queue=8)
        engine = Engine([runner], Metrics(), Limits(), 0, MemoryBudget(1 << 20))
        await make_ready(runner)
        held, began = threading.Event(), threading.Event()

        def hang() -> Prepared:
            began.set()
            held.wait(30)
            return item(5)

        waiting = asyncio.create_task(runner.run(hang))
        await asyncio.to_thread(began.wait, 30)
        assert engine.ready
        now = time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: now + NOT_READY_AFTER)
            assert not engine.ready
            assert engine.alive
            patch.setattr(time, "monotonic", lambda: now + NOT_ALIVE_AFTER)
            assert not engine.alive
        held.set()
        await waiting
        assert engine.ready
        await engine.drain(5)

    asyncio.run(go())
