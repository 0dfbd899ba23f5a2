"""A front end's runner and the device process' server over a real socket and real shared memory, in one loop.

The executor holds each batch until the test lets it go, and gives back what the slots hold then: an image
whose slot was given to another one meanwhile would come back as that one.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import ImageInvalid
from models.image import Image
from models.pipeline import Card, Inputs, Kind, Pipeline, Prepared, RunStage
from service.engine.process import front
from service.engine.process.device import DeviceRunner, DeviceServer
from service.engine.process.front import DeviceProcess, Remote, RemoteRunner
from service.engine.process.wire import socket_of
from service.engine.runner import State
from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.telemetry.metrics import Metrics
from tests.service.doubles import make_ready

SHAPE = (32, 32, 3)  # more bytes than go with a message
LONGEST = 20.0


class EchoPipeline(Pipeline):
    """Answers with the context and the image itself, in an array of the slot's size."""

    shapes = (SHAPE,)

    def __init__(self) -> None:
        self.card = Card("echo", Kind.CLASSIFY, "MIT", "0" * 64)

    def preprocess(self, image: Image, options: Any = None) -> Prepared:
        return Prepared((image.pixels,), options)

    def postprocess(self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[Any]) -> list[Any]:
        return [(context, row) for context, row in zip(contexts, outputs[0], strict=True)]


class EchoExecutor:
    """Gives its inputs back once `go` is set; a batch with 255 in it fails, one with 254 loses the device."""

    name, device, precision = "echo", "cpu", "float32"
    stages: Mapping[str, RunStage] = {}

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.sizes: list[int] = []

    def warm(self, example: Inputs, batches: Sequence[int]) -> None:
        pass

    def run(self, items: Sequence[Inputs]) -> tuple[NDArray[Any], ...]:
        self.sizes.append(len(items))
        before = np.stack([item[0] for item in items])
        assert self.go.wait(LONGEST)
        after = np.stack([item[0] for item in items])
        assert (before == after).all(), "a slot was written to while a batch read it"
        if (after == 255).any():
            raise ValueError("poison")
        if (after == 254).any():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return (after,)


def image(value: int, context: Any = None) -> Prepared:
    return Prepared((np.full(SHAPE, value, np.uint8),), context)


@dataclass
class Front:
    """A front end: its runner and its connection."""

    runner: RemoteRunner
    remote: Remote
    process: DeviceProcess
    metrics: Metrics

    @property
    def free(self) -> int:
        assert self.process.connection is not None
        return self.process.connection.slots[0].free

    def dropped(self, reason: str) -> float:
        labels = {"model": "echo", "reason": reason}
        return self.metrics.registry.get_sample_value("lynceus_dropped_total", labels) or 0.0


class Site:
    """A device process' server and front ends."""

    def __init__(self, folder: Path, *, room: int = 8, max_queue: int = 100) -> None:
        self.path = socket_of(folder, 1)
        self.room, self.max_queue = room, max_queue
        self.processes: list[DeviceProcess] = []
        self.executor = EchoExecutor()
        self.memory: Any = None
        self.metrics = Metrics()

    async def serve(self) -> DeviceServer:
        self.runner = DeviceRunner(
            EchoPipeline(),
            self.executor,
            self.metrics,
            max_batch=4,
            max_queue=self.max_queue,
        )
        holds = not self.executor.go.is_set()
        self.executor.go.set()
        await make_ready(self.runner)
        if holds:
            self.executor.go.clear()
        self.executor.sizes.clear()  # of its warm-up
        self.server = DeviceServer([self.runner], self.path, self.memory)
        self.server.start()
        return self.server

    async def front(self) -> Front:
        metrics = Metrics()
        process = DeviceProcess(self.path, metrics)
        self.processes.append(process)
        pipeline = EchoPipeline()
        remote = process.serve(pipeline, room=self.room, threads=1, max_wait=LONGEST)
        runner = RemoteRunner(pipeline, remote, metrics, max_batch=4, max_queue=self.room)
        await asyncio.wait_for(make_ready(runner), LONGEST)
        return Front(runner, remote, process, metrics)

    def crash(self) -> None:
        """As a kill: the socket is gone, and all connections end."""
        self.server.close()
        for connection in tuple(self.server.connections):
            connection.close()


def with_site(test: Callable[[Site], Coroutine[Any, Any, None]], **options: int) -> None:
    with TemporaryDirectory() as folder:
        site = Site(Path(folder), **options)

        async def go() -> None:
            await site.serve()
            try:
                await asyncio.wait_for(test(site), 3 * LONGEST)
            finally:
                site.executor.go.set()
                for process in site.processes:
                    process.close()
                site.crash()
                await asyncio.sleep(0.01)

        asyncio.run(go())


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def test_images_of_all_front_ends_share_batches_and_each_gets_its_own() -> None:
    async def test(site: Site) -> None:
        fronts = [await site.front() for _ in range(3)]
        assert all(one.runner.state is State.READY for one in fronts)
        described = [one.remote.described for one in fronts]
        assert {(one.name, one.device) for one in described} == {("echo", "cpu")}
        site.executor.go.clear()
        tasks = [
            asyncio.create_task(one.runner.run(image(10 * number + value, (number, value))))
            for value in range(4)
            for number, one in enumerate(fronts)
        ]
        await until(lambda: sum(one.remote.inflight for one in fronts) == 12)
        site.executor.go.set()
        asked = [(value, number) for value in range(4) for number in range(3)]
        for (value, number), done in zip(asked, await asyncio.gather(*tasks), strict=True):
            context, row = done.result
            assert context == (number, value)
            assert (row == 10 * number + value).all()
        assert max(site.executor.sizes) == 4, "more than one front end has under way at its turn"
        assert [one.free for one in fronts] == [8, 8, 8]

    with_site(test, room=8)


def test_errors_come_back_as_themselves() -> None:
    async def test(site: Site) -> None:
        one = await site.front()

        def broken() -> Prepared:
            raise ImageInvalid("it does not decode")

        with pytest.raises(ImageInvalid):
            await one.runner.run(broken)
        with pytest.raises(RuntimeError, match="poison"):
            await one.runner.run(image(255))
        with pytest.raises(DeadlineExceeded):
            await one.runner.run(image(1), time.monotonic() - 1)
        assert (await one.runner.run(lambda: image(3, "a"))).result[0] == "a"
        await until(lambda: one.free == 8)

    with_site(test)


def test_the_device_refuses_what_does_not_fit_into_its_queue() -> None:
    async def test(site: Site) -> None:
        fronts = [await site.front() for _ in range(2)]
        site.executor.go.clear()
        tasks = [asyncio.create_task(one.runner.run(image(1))) for one in fronts for _ in range(8)]
        await until(lambda: any(task.done() for task in tasks))
        site.executor.go.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in done if isinstance(one, Exception)} == {Overloaded}
        assert [one.free for one in fronts] == [8, 8]

    with_site(test, max_queue=2)


def test_no_slot_is_no_place() -> None:
    async def test(site: Site) -> None:
        one = await site.front()
        site.executor.go.clear()
        tasks = [asyncio.create_task(one.runner.run(image(1))) for _ in range(8)]
        await until(lambda: one.remote.inflight == 8)
        with pytest.raises(Overloaded, match="slot"):
            await one.runner.run(image(1))
        assert one.dropped("full") == 1
        site.executor.go.set()
        await asyncio.gather(*tasks)

    with_site(test)


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_the_slot_of_an_image_on_the_device_is_kept_until_its_batch_ends(how: str) -> None:
    async def test(site: Site) -> None:
        one = await site.front()
        site.executor.go.clear()
        deadline = time.monotonic() + 0.2 if how == "deadline" else None
        task = asyncio.create_task(one.runner.run(image(1), deadline))
        await until(lambda: bool(site.executor.sizes))
        if how == "cancel":
            task.cancel()
        with pytest.raises(asyncio.CancelledError if how == "cancel" else DeadlineExceeded):
            await task
        waiting = asyncio.create_task(one.runner.run(image(2)))
        await until(lambda: one.remote.inflight == 2)
        assert one.free == 6, "the batch still reads the slot of the first"
        site.executor.go.set()
        assert (await waiting).result[1].max() == 2
        await until(lambda: one.free == 8)

    with_site(test)


def test_the_end_of_a_front_end_costs_its_own_images_only() -> None:
    async def test(site: Site) -> None:
        dies, lives = await site.front(), await site.front()
        site.executor.go.clear()
        lost = [asyncio.create_task(dies.runner.run(image(1))) for _ in range(5)]
        kept = [asyncio.create_task(lives.runner.run(image(2, number))) for number in range(5)]
        await until(lambda: dies.remote.inflight + lives.remote.inflight == 10)
        dies.process.close()
        results = await asyncio.gather(*lost, return_exceptions=True)
        assert {type(one) for one in results} == {NotReady}
        await until(lambda: len(site.server.connections) == 1)
        site.executor.go.set()
        assert [done.result[0] for done in await asyncio.gather(*kept)] == list(range(5))
        assert site.runner.load.images == 0
        again = await site.front()
        assert (await again.runner.run(image(3))).result[1].max() == 3

    with_site(test)


def test_the_end_of_the_device_process_is_told_and_healed() -> None:
    async def test(site: Site) -> None:
        one = await site.front()
        site.executor.go.clear()
        under_way = [asyncio.create_task(one.runner.run(image(1))) for _ in range(3)]
        await until(lambda: one.remote.inflight == 3)
        site.crash()
        results = await asyncio.gather(*under_way, return_exceptions=True)
        assert {type(one) for one in results} == {NotReady}
        assert all(error.retry_after for error in results if isinstance(error, NotReady))
        assert one.dropped("lost") == 3
        assert one.runner.state is State.STARTING
        with pytest.raises(NotReady), one.runner.admit():
            pass
        with pytest.raises(NotReady):
            await one.runner.run(image(1))
        missing = time.monotonic()
        assert one.runner.longest(missing) == 0, "it may take its time to start"
        assert one.runner.longest(missing + front.RESTART + 61) > 60
        up = {"device": "device-1"}
        assert one.metrics.registry.get_sample_value("lynceus_device_up", up) == 0
        site.executor.go.set()
        await site.serve()
        await until(lambda: one.runner.state is State.READY)
        assert (await one.runner.run(image(4))).result[1].max() == 4
        assert one.free == 8
        assert one.metrics.registry.get_sample_value("lynceus_device_up", up) == 1

    with_site(test)


def test_a_lost_device_answers_nothing_more_until_a_new_process_does() -> None:
    async def test(site: Site) -> None:
        one = await site.front()
        with pytest.raises(RuntimeError, match="illegal memory access"):
            await one.runner.run(image(254))
        assert site.runner.state is State.FAILED  # its watchdog ends it
        with pytest.raises(NotReady, match="failed"):
            await one.runner.run(image(1))
        assert one.free == 8
        site.crash()
        await site.serve()
        await until(lambda: one.runner.state is State.READY)
        assert (await one.runner.run(image(4))).result[1].max() == 4

    with_site(test)


def test_a_device_process_with_other_models_is_no_device_process() -> None:
    async def test(site: Site) -> None:
        process = DeviceProcess(site.path, Metrics())
        process.serve(EchoPipeline(), room=1, threads=1, max_wait=1)
        process.serve(EchoPipeline(), room=1, threads=1, max_wait=1)
        with pytest.raises(OSError, match="ended"):
            await asyncio.to_thread(process._made)

    with_site(test)


def test_a_drain_waits_for_what_was_admitted() -> None:
    async def test(site: Site) -> None:
        one = await site.front()
        site.executor.go.clear()
        task = asyncio.create_task(one.runner.run(image(1)))
        await until(lambda: one.remote.inflight == 1)
        assert not await one.runner.drain(0.01)
        drained = asyncio.create_task(one.runner.drain(LONGEST))
        with pytest.raises(NotReady, match="stopping"):
            await one.remote.submit(image(1))
        site.executor.go.set()
        assert await drained
        await task
        one.process.close()
        await asyncio.wait_for(site.server.finish(), LONGEST)
        assert not site.path.exists()

    with_site(test)


def mapped() -> int:
    return Path("/proc/self/maps").read_text(encoding="ascii").count("memfd:lynceus-slots")


def test_memory_goes_with_its_connection() -> None:
    async def test(site: Site) -> None:
        before = mapped()
        for _ in range(5):
            one = await site.front()
            await one.runner.run(image(1))
            assert mapped() == before + 2, "of each side"
            one.process.close()
            await until(lambda: not site.server.connections)
            del one
            await asyncio.sleep(0.01)
            assert mapped() == before, "it does not wait for the garbage collector"

    gc.collect()  # of other tests
    gc.disable()
    try:
        with_site(test)
    finally:
        gc.enable()


KINDS = ["run", "run", "run", "cancel", "hold", "go", "front dies", "device dies"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 99)), max_size=40)
NO_ANSWER = (NotReady, Overloaded, DeadlineExceeded, asyncio.CancelledError)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_whatever_dies_every_image_is_answered_once_and_with_its_own(steps: list[tuple[str, int]]) -> None:
    async def test(site: Site) -> None:
        fronts = [await site.front() for _ in range(2)]
        tasks: list[tuple[int, asyncio.Task[Any]]] = []
        for number, (step, which) in enumerate(steps):
            one = fronts[which % 2]
            if step == "run":
                deadline = time.monotonic() + 0.01 if which % 7 == 0 else None
                job = image(number, number)
                tasks.append((number, asyncio.create_task(one.runner.run(lambda job=job: job, deadline))))  # type: ignore[misc]
            elif step == "cancel" and tasks:
                tasks[which % len(tasks)][1].cancel()
            elif step == "hold":
                site.executor.go.clear()
            elif step == "go":
                site.executor.go.set()
            elif step == "front dies":
                one.process.close()
                fronts[which % 2] = await site.front()
            elif step == "device dies":
                site.crash()
                await site.serve()
            if which % 3 == 0:
                await asyncio.sleep(0.001)
        site.executor.go.set()
        done = await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
        for (number, _), answer in zip(tasks, done, strict=True):
            if isinstance(answer, BaseException):
                assert isinstance(answer, NO_ANSWER), repr(answer)
            else:
                context, row = answer.result
                assert context == number
                assert (row == number).all()
        await until(lambda: all(one.runner.state is State.READY for one in fronts))
        await until(lambda: [one.free for one in fronts] == [8, 8])
        assert (await fronts[0].runner.run(image(9))).result[1].max() == 9

    with_site(test)
