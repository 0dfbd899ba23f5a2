"""Decoding in the model's own thread and in threads of its own: one answer, and bad pictures fail alone."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import cv2
import numpy as np
import pytest

from models.errors import ImageInvalid, ModelUnknown
from models.image import Limits
from models.pipeline import Task
from service.dataplane import DataPlane, each
from service.errors import DeadlineExceeded, NotReady
from service.executor import TorchExecutor
from service.memory import MemoryBudget
from service.metrics import Metrics
from service.runner import Runner
from tests.service.doubles import MeanPipeline


def png(value: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((8, 8, 3), value, np.uint8))[1])


@pytest.mark.parametrize("decoders", [0, 2])
def test_good_and_bad_pictures_together(decoders: int) -> None:
    async def go() -> None:
        pipeline = MeanPipeline()
        metrics = Metrics()
        runner = Runner(pipeline, TorchExecutor(pipeline.module, "cpu"), metrics, max_batch=8, max_queue=64)
        plane = DataPlane([runner], metrics, Limits(), decoders, MemoryBudget(1 << 20))
        assert not plane.ready
        with pytest.raises(NotReady, match="starting"):
            await plane.infer(runner, png(1), None, None)
        await runner.start()
        assert plane.ready
        data = [png(value) if value % 5 else b"\x89PNG\r\n\x1a\n broken" for value in range(40)]
        answers = await each([partial(plane.infer, runner, one, "mine", None) for one in data], 8)
        for value, answer in enumerate(answers):
            if value % 5:
                assert not isinstance(answer, Exception)
                assert answer.result == ("mine", float(value))
                assert answer.trace.decode > 0
            else:
                assert isinstance(answer, ImageInvalid)
        with pytest.raises(DeadlineExceeded):
            await plane.infer(runner, png(1), None, time.monotonic() - 1)
        with pytest.raises(ModelUnknown, match="no model serves detect"):
            plane.runner(Task.DETECT, None)
        assert await plane.drain(5)
        assert not plane.ready

    asyncio.run(go())
