"""A job as the service and its clients see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """States of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why a job failed."""

    RESTARTED = "restarted"  # the server, or the worker that ran it, ended
    TIMEOUT = "timeout"
    STORAGE = "storage"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    VERSION = "version"  # the worker's is not that of the service that took it


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is submitted.

    Attributes:
        options, steps: of the job.
        content, style: encoded images.
        client: its owner.
        work: its estimated cost, in seconds of a free core.
    """

    options: Mapping[str, Any]
    steps: int
    content: bytes
    style: bytes
    client: str = ""
    work: float = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """A snapshot of a job.

    Attributes:
        id: cannot be guessed.
        state: its state.
        revision: grows with every change.
        client: its owner; not shown.
        busy: a process works on it; of a cancelled job, still.
        reason: why it failed.
        options: those of the `NewJob`.
        steps, step: how many there are, how many are done.
        losses: content, style and variation before the last step, without their weights; None before it.
        eta: estimated seconds until it ends; None unless it is running and a step is done.
        preview: there is one.
        created, started, finished, expires: seconds since 1970, or None.
    """

    id: str
    state: State
    revision: int
    client: str
    busy: bool
    reason: Reason | None
    options: Mapping[str, Any]
    steps: int
    step: int
    losses: tuple[float, float, float] | None
    eta: float | None
    preview: bool
    created: float
    started: float | None
    finished: float | None
    expires: float | None

    @property
    def final(self) -> bool:
        """Its state is final."""
        return self.state not in (State.QUEUED, State.RUNNING)
