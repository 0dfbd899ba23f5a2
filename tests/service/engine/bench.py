"""A batcher in a test's hands: its clock, its device, its clients, and notes of all that it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from service.engine.batcher import Batcher, BatchResult, Observer, Reason
from tests.service.engine.clock import Device, FakeClock, settle


class Notes(Observer):
    """Keeps what the batcher tells of itself."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[float], float]] = []
        self.drops: list[Reason] = []
        self.depth = self.inflight = 0

    def on_batch(self, size: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        self.batches.append((size, list(queue_seconds), compute_seconds))

    def on_drop(self, reason: Reason) -> None:
        self.drops.append(reason)

    def on_depth(self, items: int) -> None:
        self.depth = items

    def on_inflight(self, batches: int) -> None:
        self.inflight = batches


class Bench:
    """A batcher on a fake clock and a held device, with the clients' tasks."""

    def __init__(
        self, run: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]] | None = None, **options: Any
    ):
        self.clock, self.device, self.notes = FakeClock(), Device(), Notes()
        options = {"max_batch": 4, "max_queue": 16} | options
        self.batcher: Batcher[Any, Any] = Batcher(
            run or self.device.run, clock=self.clock, observer=self.notes, **options
        )

    async def send(self, *items: Any, **options: Any) -> list[asyncio.Task[BatchResult[Any]]]:
        tasks = [asyncio.create_task(self.batcher.submit(item, **options)) for item in items]
        await settle()
        return tasks

    def check_idle(self) -> None:
        assert (self.batcher.queue_depth, self.batcher.inflight) == (0, 0)
        assert (self.notes.depth, self.notes.inflight) == (0, 0)


def outcome(task: asyncio.Task[BatchResult[Any]]) -> Any:
    """A finished task's result, or its exception."""
    assert task.done(), "still waiting"
    return task.exception() or task.result().result
