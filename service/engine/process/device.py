"""The device process's side: it takes prepared images of all front ends, batches and computes them.

A runner with the same batcher as elsewhere serves each model; here its images come out of shared memory. A
front end that ends takes its own images with it and nothing else: its connection is gone, to which they would
have been answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from models.pipeline import Prepared
from service.engine.batcher import Batcher, BatchResult
from service.engine.process.front import Described, Load
from service.engine.process.slots import Layout, Region, dump, load
from service.engine.process.wire import HANDSHAKE, Kind, Message, Messages, hear, listen, tell
from service.engine.runner import Job, Runner, State
from service.errors import NotReady, Overloaded, ServiceError

if TYPE_CHECKING:
    from service.engine.cuda import Runtime  # torch, which a CPU does not need

logger = logging.getLogger(__name__)

PAUSE: Final = 0.1
"""Seconds until the next try where no connection can be taken."""

Slot = tuple[int, int]
"""A model's number and a slot's."""


class DeviceRunner(Runner):
    """A runner for images of other processes, which have admitted them already."""

    _ahead = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._runs: set[asyncio.Future[None]] = set()

    @property
    def load(self) -> Load:
        """For the front ends' admission."""
        batcher = cast(Batcher[Any, Any], self._batcher)
        return Load(self._ahead, batcher.seconds_per_item, batcher.batch_seconds)

    async def compute(self, prepared: Prepared, deadline: float | None) -> BatchResult[Any]:
        """As `Runner.run`, but of the batch's times too, and the image may be cancelled.

        Raises:
            NotReady, Overloaded, DeadlineExceeded: see `Runner.admit` and `Batcher.submit`.
            Exception: of the model.
        """
        if self.state is not State.READY:
            raise NotReady(f"the model {self.card.name} is {self.state.value}")
        self._batcher.check(self._ahead, deadline)
        self._ahead += 1
        try:
            return await self._batcher.submit(prepared, key=prepared.shapes, deadline=deadline)
        finally:
            self._ahead -= 1

    async def settled(self) -> None:
        """Waits for the batches that are on the device now: they may hold an image whose request has left."""
        if self._runs:
            await asyncio.wait(tuple(self._runs))

    async def _run_batch(self, jobs: Sequence[Job]) -> Sequence[Any]:
        run = asyncio.get_running_loop().create_future()
        self._runs.add(run)
        try:
            return await super()._run_batch(jobs)
        finally:
            self._runs.discard(run)
            run.set_result(None)


class Registrar:
    """Registers slots with CUDA, which reads images where they lie then, without a copy in between.

    A slot is registered when its first image comes, in a thread, and remains so as long as its front end. All
    at once would be locked in memory from the start: 0.8 GB of every front end with the default models. Once
    CUDA has refused one, no more are tried; their images are copied once more.

    Args:
        runtime: of the GPU.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._thread = ThreadPoolExecutor(1, "register")
        self._refused = False

    async def register(self, slots: dict[Slot, memoryview], slot: Slot, room: memoryview) -> None:
        """Registers a slot, unless it is among those that are; there it is then."""
        if slot not in slots and not self._refused:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._register, slots, slot, room)

    def unregister(self, slots: dict[Slot, memoryview]) -> None:
        """Ends it for all of a front end, which has gone; does not wait for that."""
        self._thread.submit(self._unregister, slots)

    def _register(self, slots: dict[Slot, memoryview], slot: Slot, room: memoryview) -> None:
        if self._refused:  # meanwhile
            return
        try:
            self._runtime.register(room)
        except RuntimeError as error:
            self._refused = True
            logger.warning("images are copied once more before they go to the GPU: %s", error)
        else:
            slots[slot] = room

    def _unregister(self, slots: dict[Slot, memoryview]) -> None:
        try:
            for room in slots.values():
                self._runtime.unregister(room)
        except RuntimeError as error:
            logger.warning("the slots of a front end that has gone remain locked in memory: %s", error)


class _Image:
    """One image that is under way; it is cancelled once at most, and not while it ends anyway.

    Attributes:
        begun: its task has; one that is cancelled before would not even answer.
        ends: its request has left, or it is failing.
    """

    task: asyncio.Task[None]

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.begun = self.ends = False

    def cancel(self) -> None:
        if self.begun and not self.ends:
            self.task.cancel()
        self.ends = True


class _FrontEnd:
    """One front end: its memory, and its images."""

    messages: Messages

    def __init__(self, runners: Sequence[DeviceRunner], region: Region, registrar: Registrar | None) -> None:
        self._runners, self._region, self._registrar = runners, region, registrar
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[Slot, _Image] = {}
        self._registered: dict[Slot, memoryview] = {}
        self._lost = False

    def received(self, message: Message) -> None:
        """A message of the front end.

        Raises:
            ValueError: it has no sense.
        """
        key = message.model, message.slot
        image = self._under_way.get(key)
        if message.kind == Kind.RUN and image is None:
            room = self._region.room(*key)
            image = self._under_way[key] = _Image(message.sequence)
            image.task = self._loop.create_task(self._answer(image, message, room))
        elif message.kind == Kind.CANCEL:
            if image is not None and image.sequence == message.sequence:  # else it is answered already
                image.cancel()
        else:
            raise ValueError(f"a message of kind {message.kind} for slot {message.slot}")

    def lost(self) -> None:
        """The front end has ended."""
        self._lost = True
        for image in self._under_way.values():
            image.cancel()
        self._forget()

    def _forget(self) -> None:
        """Once nothing reads its slots any more."""
        if self._lost and not self._under_way and self._registrar is not None:
            self._registrar.unregister(self._registered)

    async def _answer(self, image: _Image, message: Message, room: memoryview) -> None:
        """Computes one image and answers it, exactly once and when nothing reads its slot any more."""
        runner, slot = self._runners[message.model], (message.model, message.slot)
        kind, image.begun = Kind.RESULT, True
        try:
            if image.ends:
                raise asyncio.CancelledError
            if self._registrar is not None:
                await self._registrar.register(self._registered, slot, room)
            prepared = load(message.sizes, message.pickled, room)
            deadline = None if message.deadline == float("inf") else message.deadline
            done = await runner.compute(prepared, deadline)
            sizes, pickled = dump((done, runner.load), room)
        except (Exception, asyncio.CancelledError) as error:
            image.ends = True
            if not isinstance(error, Overloaded):  # which came to no batch
                await runner.settled()
            kind = Kind.ERROR
            sizes, pickled = dump((_told(error), runner.load), room)
        del self._under_way[slot]
        self.messages.send(Message(kind, *slot, message.sequence, sizes=sizes, pickled=pickled))
        self._forget()


def _told(error: BaseException) -> Exception:
    """An error as a front end is told it: those of the table as they are."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return NotReady("it was cancelled")
    logger.error("an image failed", exc_info=error)
    return RuntimeError(f"in the device process: {error!r}")


class DeviceServer:
    """Serves front ends on a Unix socket.

    Args:
        runners: of the models, in the order of the settings.
        path: of the socket.
        runtime: of the GPU, which reads the front ends' slots; None: there is none.

    Attributes:
        connections: of front ends.
    """

    def __init__(self, runners: Sequence[DeviceRunner], path: Path, runtime: Runtime | None = None) -> None:
        self._runners, self._path = list(runners), path
        self._registrar = None if runtime is None else Registrar(runtime)
        self.connections: set[Messages] = set()
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeted: set[socket.socket] = set()
        self._listening: socket.socket | None = None

    def start(self) -> None:
        """Listens, in the running loop.

        Raises:
            OSError: it cannot.
        """
        self._listening = listen(self._path)
        self._spawn(self._accept(self._listening))

    async def finish(self) -> None:
        """Waits until the last front end has gone, then listens no more."""
        while self.connections:
            self._idle.clear()
            await self._idle.wait()
        self.close()

    def close(self) -> None:
        """Ends at once."""
        for task in self._tasks:
            task.cancel()
        for connection in self._greeted:
            connection.close()
        if self._listening is not None:
            self._path.unlink(missing_ok=True)
            self._listening.close()
            self._listening = None

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # no file is left for it
                logger.warning("no front end can be taken: %s", error)
                await asyncio.sleep(PAUSE)
                continue
            self._greeted.add(connection)
            self._spawn(self._take(connection))

    async def _take(self, connection: socket.socket) -> None:
        try:
            region = await asyncio.to_thread(self._greet, connection)
            front_end = _FrontEnd(self._runners, region, self._registrar)
        except (OSError, ValueError, TypeError) as error:
            self._greeted.discard(connection)
            connection.close()
            logger.warning("a front end is refused: %s", error)
            return

        def lost() -> None:
            self.connections.discard(front_end.messages)
            front_end.lost()
            self._idle.set()

        def made() -> Messages:
            front_end.messages = Messages(front_end.received, lost)
            self.connections.add(front_end.messages)
            return front_end.messages

        connection.setblocking(False)
        self._greeted.discard(connection)
        await asyncio.get_running_loop().connect_accepted_socket(made, connection)

    def _greet(self, connection: socket.socket) -> Region:
        """In a thread: what the front end wants, and its memory; then what there is."""
        connection.settimeout(HANDSHAKE)
        text, files = hear(connection)
        try:
            layouts = [Layout(**one) for one in json.loads(text)]
            wanted, served = [one.model for one in layouts], [runner.card.name for runner in self._runners]
            if wanted != served or len(files) != 1:
                raise ValueError(f"it wants {wanted}, not {served}")
            region = Region(files[0], layouts)
        finally:
            for file in files:
                os.close(file)
        executors = [runner.executor for runner in self._runners]
        described = [asdict(Described(one.name, one.device, one.precision)) for one in executors]
        tell(connection, json.dumps(described).encode())
        return region
