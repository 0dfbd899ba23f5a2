"""A GPU reads the slots of front ends where they lie: what is registered with it, and for how long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor, nn

from models.pipeline import Inputs
from service.engine.process.device import DeviceRunner
from service.engine.torch_executor import TorchExecutor
from service.settings import Precision
from tests.service.engine.process.test_front_and_device import (
    EchoExecutor,
    EchoPipeline,
    Site,
    image,
    until,
    with_site,
)
from tests.service.engine.streams import Machine


class Memory:
    """Remembers where what is registered begins; refuses on demand."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.tries = 0
        self.registered: set[int] = set()

    def register(self, memory: memoryview) -> None:
        self.tries += 1
        if self.refuses:
            raise RuntimeError("no more pages can be locked")
        self.registered.add(_address(memory))

    def unregister(self, memory: memoryview) -> None:
        self.registered.remove(_address(memory))


def _address(memory: memoryview) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def test_a_slot_is_registered_with_its_first_image_and_as_long_as_its_front_end() -> None:
    async def test(site: Site) -> None:
        site.memory = memory = Memory()
        site.crash()
        await site.serve()
        one, other = await site.front(), await site.front()
        for value in range(3):
            assert (await one.runner.run(image(value))).result[1].max() == value
        assert len(memory.registered) == 1
        await other.runner.run(image(3))
        site.executor.go.clear()
        tasks = [asyncio.create_task(one.runner.run(image(value))) for value in range(3)]
        await until(lambda: len(memory.registered) == 4 and len(site.executor.sizes) == 5)
        one.process.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: len(site.server.connections) == 1)
        assert len(memory.registered) == 4, "a batch still reads them"
        site.executor.go.set()
        await until(lambda: len(memory.registered) == 1)
        assert memory.tries == 4
        assert (await other.runner.run(image(4))).result[1].max() == 4

    with_site(test)


def test_where_the_gpu_refuses_memory_images_are_answered_as_before(caplog: pytest.LogCaptureFixture) -> None:
    async def test(site: Site) -> None:
        site.memory = memory = Memory(refuses=True)
        site.crash()
        await site.serve()
        one = await site.front()
        with caplog.at_level(logging.WARNING, "service.engine.process.device"):
            for value in range(3):
                done = await asyncio.gather(*(one.runner.run(image(value)) for _ in range(4)))
                assert all((answer.result[1] == value).all() for answer in done)
        assert memory.tries == 1
        assert [record.getMessage() for record in caplog.records] == [
            "images are copied once more before they go to the GPU: no more pages can be locked"
        ]

    with_site(test)


class Copied(nn.Module):
    """uint8 [N, H, W, 3] -> the same."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0


class CopyPipeline(EchoPipeline):
    def __init__(self) -> None:
        super().__init__()
        self.module = Copied()


class OnMachine(EchoExecutor):
    """The executor of a GPU, whose work is done late; see `streams`."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine, self.go = machine, machine.go
        with machine:
            self._inner = TorchExecutor(CopyPipeline(), "cpu", Precision.FLOAT32, runtime=machine)

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        with self.machine:
            self._inner.warm(example, batches)

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        self.sizes.append(len(items))
        with self.machine:
            return self._inner.run(items)


async def _nothing(runner: DeviceRunner) -> None:
    pass


def spoilt(seed: int) -> list[str]:
    """What becomes of slots that the GPU reads while their requests leave and others come."""
    machine = Machine(seed)

    async def test(site: Site) -> None:
        await site.serve()
        one = await site.front()
        machine.go.clear()
        leaves = asyncio.create_task(one.runner.run(image(1)))
        await until(lambda: bool(site.executor.sizes))
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        await asyncio.sleep(0.05)  # longer than an answer takes
        stays = [asyncio.create_task(one.runner.run(image(value, value))) for value in range(2, 6)]
        await until(lambda: one.remote.inflight >= 4)
        machine.go.set()
        for value, done in enumerate(await asyncio.gather(*stays), 2):
            assert done.result[0] == value
            assert (done.result[1] == value).all()
        one.process.close()
        await until(lambda: not site.server.connections and not machine.registered)

    with TemporaryDirectory() as folder:
        site = Site(Path(folder))
        site.executor, site.memory = OnMachine(machine), machine

        async def go() -> None:
            try:
                await test(site)
            finally:
                machine.go.set()
                for process in site.processes:
                    process.close()
                site.crash()
                await asyncio.sleep(0.01)

        asyncio.run(go())
    return machine.spoilt


def test_no_slot_is_given_back_before_the_gpu_has_read_it() -> None:
    assert spoilt(0) == []


def test_one_that_is_given_back_too_early_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceRunner, "settled", _nothing)
    assert "written" in spoilt(0)
