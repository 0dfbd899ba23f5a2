"""The dynamic batcher: many awaiting requests in, one call of the device out.

    submit() -> queue of its key -> a slot is free -> run([items]) -> futures

It is work-conserving: a batch leaves as soon as the device has a free slot, with the items that wait then, so
batches grow with the load and a single client never waits for others. It is driven by events (an arrival, a
finished batch, a timer of the injected clock); nothing polls. A batch is gathered at the end of the event
loop's turn, so that a burst submitted in one turn shares one batch, at no cost in time.

The design follows text-embeddings-inference (no timer in the batcher; the back end's free slot pulls) and
mosec (a bounded queue that refuses at once). No third-party imports; one event loop, no locks.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Literal, TypeVar

from service.engine.capacity import BatchLimit, DrainRate
from service.engine.clock import Clock, Handle, LoopClock
from service.engine.queue import Entry, KeyedQueue, Lane, head
from service.errors import DeadlineExceeded, NotReady, Overloaded, ServiceError

T = TypeVar("T")
R = TypeVar("R")
Reason = Literal["full", "hopeless", "expired", "cancelled"]


class Observer:
    """Events that the batcher reports, for metrics. Override what is wanted; must not raise."""

    def on_batch(self, size: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        """A run gave results, after one wait per item. No item is reported twice."""

    def on_drop(self, reason: Reason) -> None:
        """An item ends without a result: refused (the queue is full, it would be late), out of time, or its
        client left."""

    def on_depth(self, items: int) -> None:
        """So many items wait now."""

    def on_inflight(self, batches: int) -> None:
        """So many batches are on the device now."""


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[R]):
    """An item's result and its timing.

    Attributes:
        result: what `run` gave for the item.
        queue_s: seconds from `submit` until the run that gave the result began.
        compute_s: seconds of that run.
        batch_size: items in that run.
    """

    result: R
    queue_s: float
    compute_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Running(Generic[T, R]):
    """A batch on the device since `began`."""

    batch: list[Entry[T, BatchResult[R]]]
    began: float


def longest_wait(most: float, batch: float) -> float:
    """Seconds that an item may wait: `most`, but never less than two batches of so many seconds take, or a
    slow model would idle between them."""
    return max(most, 2 * batch)


def refusal(wait: float, batch: float, most: float, left: float | None) -> ServiceError | None:
    """Why an item cannot be answered in time; None if it can.

    Args:
        wait: seconds until its batch begins.
        batch: seconds that a batch takes.
        most: seconds that an item may wait, see `longest_wait`.
        left: seconds until its deadline.

    Returns:
        Overloaded, with the seconds until another one could be answered, or DeadlineExceeded: it could not
        with nothing before it either.
    """
    late = wait - longest_wait(most, batch)
    if left is not None:
        late = max(late, wait + batch - left)
    if late <= 0:
        return None
    if left is not None and batch > left:
        return DeadlineExceeded(f"the deadline is sooner than a batch takes, {batch:.3f} s")
    return Overloaded(f"the images before it take {wait:.1f} s", min(60.0, late))


class Batcher(Generic[T, R]):
    """Gathers items into batches for a device that works on few batches at a time.

    Only items of one key share a batch; among keys the one with the oldest head goes first, and within a key
    items leave in the order they came. Beyond what the free slots can take at once, at most `max_queue` items
    wait; the next one is refused at once. Cancelled and expired items never reach the device, and none waits
    for longer than `longest_wait`; `check` tells beforehand.

    A run that raises is retried by halves: a poison item fails alone with its own exception after 2 log2(n)
    extra runs, its neighbours succeed, and n items cost 2n - 1 runs at the very worst. A run out of memory
    lowers the cap on later batches as well.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        max_batch: int,
        max_queue: int,
        slots: int = 1,
        linger: float = 0.0,
        max_wait: float = float("inf"),
        sharing: Callable[[], int] = lambda: 1,
        is_oom: Callable[[BaseException], bool] = lambda error: isinstance(error, MemoryError),
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        """
        Args:
            run: answers a batch of 1..max_batch items in order; an Exception in place of a result fails that
                item alone. At most `slots` calls are under way at once.
            max_batch: most items of a run.
            max_queue: most items that wait while no slot is free; 0 refuses whatever cannot leave at once.
            slots: batches on the device at once; 2 lets the next batch be staged while one computes.
            linger: seconds that a batch which is not full waits for more, from its first item's arrival.
                It adds as much latency at low load, so 0 unless the device gains more by larger batches.
            max_wait: seconds that an item may wait.
            sharing: how many batchers compute on the same cores or device now, this one included.
            is_oom: whether an exception of `run` is the device's out-of-memory.
        """
        if max_batch < 1 or slots < 1 or max_queue < 0 or linger < 0:
            raise ValueError("max_batch and slots must be at least 1, max_queue and linger at least 0")
        self._run = run
        self._max_queue = max_queue
        self._slots = slots
        self._linger = linger
        self._max_wait = max_wait
        self._sharing = sharing
        self._is_oom = is_oom
        self._clock: Clock = clock or LoopClock()
        self._observer = observer or Observer()
        self._room: KeyedQueue[T, BatchResult[R]] = KeyedQueue()
        self._number = 0
        self._inflight = 0
        self._cap = BatchLimit(max_batch)
        self._rate = DrainRate()
        self._scheduled = False
        self._lingering: Handle | None = None
        self._closed = False
        self._running: dict[int, Running[T, R]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._cut = False
        self._idle = asyncio.Event()  # set once closed with nothing left to do
        # Batches run in this context, not in that of the request that started them.
        self._context = contextvars.copy_context()

    @property
    def queue_depth(self) -> int:
        """Items waiting for a slot."""
        return self._room.depth

    @property
    def inflight(self) -> int:
        """Batches on the device."""
        return self._inflight

    @property
    def retry_after(self) -> float:
        """Seconds in which what waits now should have drained: 0.05 to 60; 1 before any batch ended."""
        seconds = self._rate.seconds_for(self._room.depth, self._sharing())
        return min(60.0, max(0.05, seconds)) if seconds or not self._room.depth else 1.0

    @property
    def seconds_per_item(self) -> float:
        """As measured, at the present load of the cores; 0 before any batch ended."""
        return self._rate.seconds_for(1, self._sharing())

    @property
    def batch_seconds(self) -> float:
        """The same of a batch of the usual size."""
        return self._rate.batch_seconds(self._sharing())

    def longest(self, now: float) -> float:
        """Seconds that the longest batch under way has taken by the clock's `now`; from any thread."""
        return max((now - running.began for running in tuple(self._running.values())), default=0.0)

    def check(self, ahead: int, deadline: float | None) -> None:
        """Whether an item that comes now can be answered in time, as far as the speed so far tells.

        Args:
            ahead: items that were admitted before it and have no result yet.
            deadline: clock time after which its result is of no use.

        Raises:
            Overloaded: it cannot; with the seconds until another one could.
            DeadlineExceeded: it could not with nothing before it either.
        """
        if not ahead:
            return  # nothing to wait for; besides, only batches that run correct a measurement
        sharing, now = self._sharing(), self._clock.now()
        if deadline is not None and deadline <= now:
            return  # not for who is before it: `submit` says so
        batch = self._rate.batch_seconds(sharing)
        began = min((running.began for running in self._running.values()), default=now)
        wait = max(0.0, self._rate.seconds_for(ahead, sharing) - min(batch, now - began))
        refused = refusal(wait, batch, self._max_wait, None if deadline is None else deadline - now)
        if refused is not None:
            self._observer.on_drop("hopeless")
            raise refused

    async def submit(
        self, item: T, *, key: Hashable = None, deadline: float | None = None, waited: float = 0.0
    ) -> BatchResult[R]:
        """Queues one item and waits for its result. Cancelling the caller removes the item.

        Args:
            key: items share a batch with equal keys only (the shape of a tensor, say).
            deadline: clock time after which the result is of no use.
            waited: seconds that its request has waited elsewhere, which count among those that it may wait.

        Raises:
            Overloaded: the queue is full, or it has waited for as long as it may.
            NotReady: the batcher is draining, or was closed before the result was there.
            DeadlineExceeded: at the deadline exactly, whether the item waits or is on the device by then.
            Exception: whatever `run` raised for this item alone.
        """
        if self._closed:
            raise NotReady("the service is stopping")
        now = self._clock.now()
        if deadline is not None and deadline <= now:
            self._observer.on_drop("expired")
            raise DeadlineExceeded("the deadline has passed")
        if self._room.depth >= self._max_queue + self._cap.size * (self._slots - self._inflight):
            self._observer.on_drop("full")
            raise Overloaded(f"{self._room.depth} requests wait already", self.retry_after)
        future: asyncio.Future[BatchResult[R]] = asyncio.get_running_loop().create_future()
        self._number += 1
        entry = Entry(self._number, item, key, now, deadline, future)
        length = self._room.add(entry)
        self._observer.on_depth(self._room.depth)
        latest = now + max(0.0, longest_wait(self._max_wait, self.batch_seconds) - waited)
        if deadline is not None:
            latest = min(latest, deadline)
        if latest < float("inf"):
            entry.timer = self._clock.call_later(latest - now, self._due, entry, latest)
        if self._inflight < self._slots:
            if length >= self._cap.size:
                self._dispatch()
            elif not self._scheduled:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._dispatch)
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():  # else the result came first
                self._drop(entry, "cancelled")
            raise
        finally:
            if entry.timer is not None:
                entry.timer.cancel()

    async def drain(self, grace: float) -> bool:
        """Refuses new items, lets those queued and on the device finish, then closes; lingers no more.

        Returns whether all finished within `grace` seconds; what did not fails with NotReady.
        """
        self._closed = True
        self._dispatch()
        timer = self._clock.call_later(grace, self.close)
        try:
            await self._idle.wait()
        finally:
            timer.cancel()
        return not self._cut

    def close(self) -> None:
        """Refuses new items and fails all that wait or are on the device with NotReady, at once.

        A run under way cannot be cancelled; its results are discarded.
        """
        self._closed = True
        self._cut = bool(self._room.depth or self._inflight)
        waiting = list(self._room)
        for entry in waiting:
            self._take_back(entry)
        for entry in chain(waiting, *(running.batch for running in self._running.values())):
            entry.fail(NotReady("the service is stopping"))
        self._idle.set()

    def _due(self, entry: Entry[T, BatchResult[R]], at: float) -> None:
        """An item has waited for too long, or its deadline has come: what was to come at this clock time, of
        which a timer may be a little early."""
        if entry.deadline is not None and max(at, self._clock.now()) >= entry.deadline:
            self._drop(entry, "expired")
        elif entry in self._room:
            self._drop(entry, "hopeless")
        elif entry.deadline is not None:  # it is on the device
            left = entry.deadline - self._clock.now()
            entry.timer = self._clock.call_later(left, self._due, entry, entry.deadline)

    def _take_back(self, entry: Entry[T, BatchResult[R]]) -> None:
        if self._room.remove(entry):
            self._observer.on_depth(self._room.depth)

    def _drop(self, entry: Entry[T, BatchResult[R]], reason: Reason) -> None:
        """Ends an item without a result, wherever it is; on the device its batch goes on without it."""
        if reason == "cancelled" or not entry.future.done():
            self._take_back(entry)
            self._end(entry, reason)
            self._settle()

    def _end(self, entry: Entry[T, BatchResult[R]], reason: Reason) -> None:
        self._observer.on_drop(reason)
        if reason == "hopeless":
            entry.fail(Overloaded("it has waited for as long as it may", self.retry_after))
        else:
            entry.fail(DeadlineExceeded("the deadline passed before the result was there"))

    def _is_wanted(self, entry: Entry[T, BatchResult[R]], now: float) -> bool:
        """Whether its caller still waits; ends it if it is due and the loop has not reached its timer."""
        if entry.future.done():
            return False
        if entry.deadline is None or entry.deadline > now:
            return True
        self._end(entry, "expired")
        return False

    def _settle(self) -> None:
        if self._closed and not (self._room.depth or self._inflight):
            self._idle.set()

    def _dispatch(self) -> None:
        """Fills the free slots."""
        self._scheduled = False
        while self._inflight < self._slots and (batch := self._next()):
            task = asyncio.get_running_loop().create_task(self._serve(batch), context=self._context)
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        self._settle()

    def _next(self) -> list[Entry[T, BatchResult[R]]]:
        """The batch that leaves for the device now; empty where none does."""
        while self._room.depth:
            now = self._clock.now()
            lingered = now if self._closed else now - self._linger
            lane = self._room.oldest(self._cap.size, lingered)
            if lane is None:
                if self._lingering is not None:
                    self._lingering.cancel()
                delay = self._room.first_arrival() - lingered
                self._lingering = self._clock.call_later(delay, self._dispatch)
                break
            batch = self._gather(lane, now)
            if batch:
                self._inflight += 1
                self._observer.on_inflight(self._inflight)
                self._running[batch[0].number] = Running(batch, now)
                return batch
        return []

    def _gather(self, lane: Lane[T, BatchResult[R]], now: float) -> list[Entry[T, BatchResult[R]]]:
        """Takes the next batch off a lane, leaving out items that have expired or were cancelled."""
        size = min(len(lane), self._cap.size)
        batch: list[Entry[T, BatchResult[R]]] = []
        while lane and len(batch) < size:
            entry = head(lane)
            self._room.remove(entry)
            if self._is_wanted(entry, now):
                batch.append(entry)
        self._observer.on_depth(self._room.depth)
        return batch

    async def _serve(self, batch: list[Entry[T, BatchResult[R]]]) -> None:
        """Takes batches through the device, one after the other as long as any leaves, their failed parts by
        halves; then frees the slot."""
        while batch:
            started = self._clock.now()
            parts = [batch]  # a stack
            try:
                while parts:
                    now = self._clock.now()
                    part = [entry for entry in parts.pop() if self._is_wanted(entry, now)]
                    if part:
                        parts += await self._attempt(part)
            except BaseException as error:  # not the run's, which `_attempt` answers: a bug, or the loop ends
                for entry in batch:
                    cancelled = isinstance(error, asyncio.CancelledError)
                    entry.fail(NotReady("the run was cancelled") if cancelled else RuntimeError(repr(error)))
                self._ended(batch, started)
                self._dispatch()
                raise
            self._ended(batch, started)
            batch = self._next()
        self._settle()

    def _ended(self, batch: list[Entry[T, BatchResult[R]]], started: float) -> None:
        """A batch has left the device."""
        del self._running[batch[0].number]
        self._inflight -= 1
        self._observer.on_inflight(self._inflight)
        self._rate.ended(len(batch), started, self._clock.now(), self._sharing())

    async def _attempt(self, part: list[Entry[T, BatchResult[R]]]) -> list[list[Entry[T, BatchResult[R]]]]:
        """One run. Answers its items, or gives back its halves to try next, the first of them last."""
        size = len(part)
        started = self._clock.now()
        try:
            results = await self._run([entry.item for entry in part])
        except Exception as error:
            if self._is_oom(error):
                self._cap.failed(size)
            if size == 1:
                part[0].fail(error)
                return []
            return [part[size // 2 :], part[: size // 2]]
        seconds = self._clock.now() - started
        if len(results) != size:
            for entry in part:
                entry.fail(RuntimeError(f"a run of {size} items gave {len(results)} results"))
            return []
        waits = [started - entry.arrived for entry in part]
        self._observer.on_batch(size, waits, seconds)
        self._cap.succeeded(size)
        for entry, result, wait in zip(part, results, waits, strict=True):
            if isinstance(result, Exception):
                entry.fail(result)
            else:
                entry.answer(BatchResult(result, wait, seconds, size))
        return []
