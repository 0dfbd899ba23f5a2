"""A job as the service and its clients see it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from models.pipeline import WeightsFile


class JobKind(StrEnum):
    """What a job makes: an image in the manner of another, or one of what a network looks for."""

    STYLIZE = "stylize"
    VISUALIZE = "visualize"


IMAGES: Final[Mapping[JobKind, tuple[str, ...]]] = {
    JobKind.STYLIZE: ("content", "style"),
    JobKind.VISUALIZE: (),
}
"""Roles of the images that a job of each kind is given."""


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
        kind, options, steps: of the job.
        images: encoded, by the roles of `IMAGES`.
        client: its owner.
        work: its estimated cost, in seconds of a free core.
    """

    kind: JobKind
    options: Mapping[str, Any]
    steps: int
    images: Mapping[str, bytes]
    client: str = ""
    work: float = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """A snapshot of a job.

    Attributes:
        id: cannot be guessed.
        kind: what it makes.
        state: its state.
        revision: grows with every change.
        client: its owner; not shown.
        busy: a process works on it; of a cancelled job, still.
        reason: why it failed.
        options: those of the `NewJob`.
        steps, step: how many there are, how many are done.
        losses: what the last step was told by, by name: of a style job the costs `content`, `style`,
            `variation` and `brightness` before it, without their weights; of a visualisation the
            `activation` that rises.
            None before the first step.
        eta: estimated seconds until it ends; None unless it is running and a step is done.
        preview: there is one.
        created, started, finished, expires: seconds since 1970, or None.
    """

    id: str
    kind: JobKind
    state: State
    revision: int
    client: str
    busy: bool
    reason: Reason | None
    options: Mapping[str, Any]
    steps: int
    step: int
    losses: Mapping[str, float] | None
    eta: float | None
    preview: bool
    created: float
    started: float | None
    finished: float | None
    expires: float | None

    @classmethod
    def of(cls, record: Mapping[str, Any], *, busy: bool, expiry: float) -> Self:
        """From what keeps it: by name, values or their texts; what is not there is missing, None or "".

        Args:
            record: of the fields, `options` and `losses` as JSON.
            busy: a process works on it.
            expiry: seconds that it is kept once it has finished.
        """

        def number(field: str) -> float | None:
            value = record.get(field)
            return None if value in (None, "") else float(value)

        finished = number("finished")
        return cls(
            id=record["id"],
            kind=JobKind(record["kind"]),
            state=State(record["state"]),
            revision=int(record["revision"]),
            client=record["client"],
            busy=busy,
            reason=Reason(record["reason"]) if record.get("reason") else None,
            options=json.loads(record["options"]),
            steps=int(record["steps"]),
            step=int(record["step"]),
            losses=json.loads(record["losses"]) if record.get("losses") else None,
            eta=number("eta"),
            preview=bool(number("preview")),
            created=float(record["created"]),
            started=number("started"),
            finished=finished,
            expires=None if finished is None else finished + expiry,
        )

    @property
    def final(self) -> bool:
        """Its state is final."""
        return self.state not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, slots=True)
class Files:
    """Where a job's process finds networks.

    Attributes:
        network: an EfficientNet-Lite0 checkpoint, whose features the costs of style jobs compare; None: no
            style jobs.
        catalogue: an operator's own, besides this project's.
        weights: folder of fetched files; None: the default one.
    """

    network: WeightsFile | None
    catalogue: Path | None = None
    weights: Path | None = None

    def order(self, job: Job, folder: Path, threads: int) -> dict[str, Any]:
        """What `service.jobs.process.run` is given, as plain data.

        Args:
            job: to do.
            folder: with its images, as ROLE.png, and for what it makes.
            threads: that it may use.
        """
        return {
            "kind": job.kind.value,
            "options": dict(job.options),
            "folder": str(folder),
            "threads": threads,
            "network": None if self.network is None else [str(self.network.path), self.network.sha256],
            "catalogue": None if self.catalogue is None else str(self.catalogue),
            "weights": None if self.weights is None else str(self.weights),
        }
