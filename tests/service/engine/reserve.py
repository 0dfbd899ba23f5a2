"""Memory that is held for the duration of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.engine.memory import MemoryBudget


@asynccontextmanager
async def reserve(budget: MemoryBudget, size: int) -> AsyncIterator[None]:
    await budget.acquire(size)
    try:
        yield
    finally:
        budget.release(size)
