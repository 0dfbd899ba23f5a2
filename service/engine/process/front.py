"""The device process as a front end sees it: it batches and computes, in place of a batcher of its own.

A front end admits, decodes, crops and waits; what it has prepared lies in a slot (see `slots`). When the
device process ends, whatever ended it, the images under way fail with an error that may be tried again, and
the connection is made anew, with new memory, as soon as another one listens.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, cast

import numpy as np

from models.image import Image
from models.pipeline import Pipeline, Prepared, RunStage
from service.engine.batcher import BatchResult, refusal
from service.engine.executor import Executor
from service.engine.process.slots import Claim, Layout, Region, Slots, load, share, size_of
from service.engine.process.wire import Kind, Message, Messages, connect, hear, tell
from service.engine.runner import Runner, State
from service.engine.threads import Threads
from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

RETRY: Final = 0.1
"""Seconds between two tries to connect."""

RESTART: Final = 120.0
"""Seconds that the start of a device process may take before front ends without one count as hanging."""

ENDED: Final = "the process that computes has ended; try again"


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a model is in the device process, as its latest answer said.

    Attributes:
        images: that it has admitted, of all front ends.
        item_seconds, batch_seconds: as `Batcher` measures them; 0 before any batch.
    """

    images: int = 0
    item_seconds: float = 0.0
    batch_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Described:
    """What the device process says of a model: see `Executor`; the stages run there too."""

    name: str
    device: str
    precision: str
    stages: ClassVar[Mapping[str, RunStage]] = MappingProxyType({})


@dataclass(slots=True)
class _Asked:
    """An image that the device process knows of; `began` on the monotonic clock."""

    claim: Claim
    future: asyncio.Future[BatchResult[Any]]
    began: float


class _Connection:
    """One connection, its slots, and what is under way on it.

    Raises:
        OSError: no device process listens there, or it does not answer.
        ValueError: it serves other models.
    """

    messages: Messages

    def __init__(self, path: Path, layouts: Sequence[Layout]) -> None:
        self.lost = False
        self.asked: list[dict[int, _Asked]] = [{} for _ in layouts]
        file = share(layouts)
        try:
            region = Region(file, layouts)
            self.socket = connect(path)
            try:
                tell(self.socket, json.dumps([asdict(one) for one in layouts]).encode(), (file,))
                self.described = [Described(**one) for one in json.loads(hear(self.socket)[0])]
            except BaseException:
                self.socket.close()
                raise
        finally:
            os.close(file)
        if len(self.described) != len(layouts):
            self.socket.close()
            raise ValueError("the device process serves other models")
        self.slots = [Slots(region, model) for model in range(len(layouts))]


class Remote:
    """One model in the device process, which batches for a `RemoteRunner` what this prepares.

    Attributes:
        described: what runs there, once it has been there.
        device: the process.
        changed: called with whether the device process is there, when that changes.
    """

    def __init__(
        self,
        number: int,
        layout: Layout,
        device: DeviceProcess,
        metrics: Metrics,
        *,
        threads: int,
        max_wait: float,
    ) -> None:
        self._number, self.device, self._max_wait = number, device, max_wait
        self._model = layout.model
        self._threads = Threads(threads, f"fill-{layout.model}")
        self._load = Load()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._closed = False
        self._dropped = {
            reason: metrics.dropped.labels(layout.model, reason) for reason in ("full", "hopeless", "lost")
        }
        self.changed: Callable[[bool], None] = lambda there: None
        self.described = Described("", "", "")

    @property
    def inflight(self) -> int:
        """Images that the device process knows of."""
        connection = self.device.connection
        return 0 if connection is None else len(connection.asked[self._number])

    @property
    def retry_after(self) -> float:
        """As `Batcher.retry_after`."""
        seconds = self._load.images * self._load.item_seconds
        return min(60.0, max(0.05, seconds)) if seconds else 1.0

    @property
    def seconds_per_item(self) -> float:
        """As `Batcher.seconds_per_item`."""
        return self._load.item_seconds

    def longest(self, now: float) -> float:
        """Seconds that the device process owes its oldest answer, or has been missing beyond `RESTART`."""
        connection = self.device.connection
        if connection is None:
            return max(0.0, now - self.device.lost_at - RESTART)
        return max((now - one.began for one in tuple(connection.asked[self._number].values())), default=0.0)

    def check(self, ahead: int, deadline: float | None) -> None:
        """As `Batcher.check`, by what the latest answer said; the device process checks again.

        Raises:
            NotReady: there is no device process.
            Overloaded, DeadlineExceeded: as there.
        """
        if self.device.connection is None:
            raise NotReady(ENDED)
        if not ahead:
            return  # only answers correct a measurement
        left, batch = None if deadline is None else deadline - time.monotonic(), self._load.batch_seconds
        if left is not None and left <= 0:
            return  # `submit` says so
        wait = max(0.0, max(ahead, self._load.images) * self._load.item_seconds - batch)
        refused = refusal(wait, batch, self._max_wait, left)
        if refused is not None:
            self._dropped["hopeless"].inc()
            raise refused

    async def submit(
        self,
        job: Prepared | Callable[[], Prepared],
        *,
        key: Hashable = None,
        deadline: float | None = None,
        waited: float = 0.0,
    ) -> BatchResult[Any]:
        """Prepares an image in a thread, in a slot, and waits for its answer.

        Args:
            job: as of `Runner.run`.
            key: not used; the device process finds it.
            deadline: on the monotonic clock.
            waited: not used: an image's wait counts from its arrival at the device process.

        Raises:
            Overloaded: every slot is taken, or the device process refuses it.
            NotReady: the device process has ended.
            DeadlineExceeded: at the deadline.
            Exception: of the preparation, or of the model.
        """
        connection = self.device.connection
        if self._closed or connection is None:
            raise NotReady("the service is stopping" if self._closed else ENDED)
        claim = connection.slots[self._number].claim()
        if claim is None:
            self._dropped["full"].inc()
            raise Overloaded(f"every slot of {self._model} is taken", self.retry_after)
        prepare = (lambda: job) if isinstance(job, Prepared) else job
        self._under_way += 1
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()) as limit:
                filled = await self._threads.run(claim.fill, prepare)
                assert filled is not None  # noqa: S101 (only of a claim that was left)
                return await self._ask(connection, claim, filled, deadline)
        except TimeoutError:
            if limit.expired():
                raise DeadlineExceeded("the deadline passed before the result was there") from None
            raise
        finally:
            if claim.leave():
                connection.messages.send(Message(Kind.CANCEL, self._number, claim.slot, claim.sequence))
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drain(self, grace: float) -> bool:
        """Refuses new images, waits for those under way; whether all were done within `grace` seconds."""
        self._closed = True
        while self._under_way:
            self._idle.clear()
            try:
                async with asyncio.timeout(grace):
                    await self._idle.wait()
            except TimeoutError:
                break
        self._threads.close()
        return not self._under_way

    def answered(self, asked: _Asked, message: Message) -> None:
        """The device process has answered one of its images."""
        error: Exception | None = None
        try:
            value, self._load = load(message.sizes, message.pickled, asked.claim.room, copy=True)
            if message.kind == Kind.ERROR:
                error = value
        except Exception as unread:
            error = unread
        asked.claim.end()
        if asked.future.done():
            return
        if error is None:
            asked.future.set_result(value)
        else:
            asked.future.set_exception(error)

    def lost(self, images: int) -> None:
        """The connection has ended, with so many of its images under way."""
        self._load = Load()
        self._dropped["lost"].inc(images)
        self.changed(False)

    async def _ask(
        self, connection: _Connection, claim: Claim, filled: tuple[list[int], bytes], deadline: float | None
    ) -> BatchResult[Any]:
        if connection.lost:
            raise NotReady(ENDED)
        future: asyncio.Future[BatchResult[Any]] = asyncio.get_running_loop().create_future()
        connection.asked[self._number][claim.slot] = _Asked(claim, future, time.monotonic())
        claim.sent()
        sizes, pickled = filled
        until = float("inf") if deadline is None else deadline
        connection.messages.send(
            Message(Kind.RUN, self._number, claim.slot, claim.sequence, until, sizes, pickled)
        )
        return await future


class RemoteRunner(Runner):
    """A runner of images that the device process batches, with those of other front ends, and computes.

    It is ready while there is a device process.

    Args:
        pipeline: prepares the images.
        remote: the model there.
        metrics, options: as of `Runner`.
    """

    def __init__(self, pipeline: Pipeline, remote: Remote, metrics: Metrics, **options: Any) -> None:
        # it is only looked at: what would run it is overridden
        super().__init__(pipeline, cast(Executor, remote.described), metrics, **options)
        self._batcher = self._remote = remote
        remote.changed = self._has_device

    async def warm(self) -> None:
        """Waits for the device process, which has warmed the model."""
        await self._remote.device.connect()

    async def rehearse(self) -> None:
        """Nothing: the device process has."""

    def _has_device(self, there: bool) -> None:
        if self.state in (State.STARTING, State.READY):
            self.state = State.READY if there else State.STARTING


class DeviceProcess:
    """The connection of a front end to its device process, for all models.

    Args:
        path: of the device process's socket; its name is the metrics' name of the device.
        metrics: take what is lost.

    Attributes:
        connection: None while there is none.
        lost_at: when the last one was lost, on the monotonic clock.
    """

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._path = path
        self._metrics = metrics
        self._up = metrics.device_up.labels(path.stem)
        self._layouts: list[Layout] = []
        self._remotes: list[Remote] = []
        self._waiting: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.connection: _Connection | None = None
        self.lost_at = time.monotonic()

    def serve(self, pipeline: Pipeline, *, room: int, threads: int, max_wait: float) -> Remote:
        """A model that the device process serves; to be called for each, in their order, before `connect`.

        Args:
            pipeline: prepares its images.
            room: images that may be under way at once: so many slots.
            threads: that prepare images.
            max_wait: see `Runner`.
        """
        size = max(
            size_of(pipeline.preprocess(Image(np.zeros(shape, np.uint8), shape[1], shape[0])))
            for shape in pipeline.shapes
        )
        layout = Layout(pipeline.card.name, size, room)
        number = len(self._layouts)
        remote = Remote(number, layout, self, self._metrics, threads=threads, max_wait=max_wait)
        self._layouts.append(layout)
        self._remotes.append(remote)
        return remote

    def wait(self) -> None:
        """Blocks until the device process is there and has told what it runs.

        Raises:
            ValueError: it serves other models.
            OSError: the supervisor has gone, which starts it.
        """
        logger.info("waiting for the process that computes")
        parent = os.getppid()
        while self._waiting is None:
            try:
                self._waiting = self._made()
            except OSError:
                if os.getppid() != parent:
                    raise
                time.sleep(RETRY)

    async def connect(self) -> None:
        """Connects to it, or again, as soon as it is there.

        Raises:
            ValueError: it serves other models.
        """
        async with self._connecting:  # models start at once
            while self.connection is None:
                made, self._waiting = self._waiting, None
                try:
                    await self._take(await asyncio.to_thread(self._made) if made is None else made)
                except OSError:
                    await asyncio.sleep(RETRY)

    def close(self) -> None:
        """Ends the connection."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            self.connection.messages.close()

    def _made(self) -> _Connection:
        made = _Connection(self._path, self._layouts)
        if self._closed:  # meanwhile
            made.socket.close()
            raise ConnectionAbortedError("the service is stopping")
        for remote, described in zip(self._remotes, made.described, strict=True):
            remote.described = described
        return made

    async def _take(self, made: _Connection) -> None:
        def received(message: Message) -> None:
            if message.model >= len(made.asked):
                raise ValueError(f"there is no model {message.model}")
            asked = made.asked[message.model].pop(message.slot, None)
            if asked is None or asked.claim.sequence != message.sequence:
                raise ValueError("an answer that nothing waits for")
            self._remotes[message.model].answered(asked, message)

        def speak() -> Messages:
            made.messages = Messages(received, lambda: self._lost(made))
            return made.messages

        made.socket.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(speak, sock=made.socket)
        if made.lost:
            raise ConnectionError("it has ended already")
        self.connection = made
        self._up.set(1)
        for remote in self._remotes:
            remote.changed(True)

    def _lost(self, ended: _Connection) -> None:
        ended.lost = True
        if ended is not self.connection:
            return
        self.connection, self.lost_at = None, time.monotonic()
        self._up.set(0)
        failed = 0
        for remote, asked in zip(self._remotes, ended.asked, strict=True):
            waiting = [one.future for one in asked.values() if not one.future.done()]
            for future in waiting:
                future.set_exception(NotReady(ENDED))
            remote.lost(len(waiting))
            failed += len(waiting)
        if not self._closed:
            logger.error("the device process has ended; images under way: %d", failed)
            self._task = asyncio.get_running_loop().create_task(self.connect())
