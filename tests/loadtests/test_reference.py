"""The in-process measurements of a run, on processes that are made up."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from loadtests import reference
from loadtests.limit import Job, Layout
from loadtests.record import Pace

TASKS = ["classify", "classify/grpc", "detect"]


class Machine:
    """In the place of `Limit`: rates by batch size and job, and a second more for each request."""

    def __init__(self, jobs: Sequence[Job], layout: Layout, batches: Sequence[int]) -> None:
        self.jobs, self.batches = jobs, batches
        self.asked: list[int] = []
        self.enough = threading.Event()
        self._seconds = itertools.count(1)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def measure(self, batch: int, seconds: float, job: int = 0) -> float:
        return 100.0 * (job + 1) + batch

    def alone(self, job: int = 0) -> float:
        self.asked.append(job)
        if len(self.asked) >= 6:
            self.enough.set()
        return float(next(self._seconds))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reference, "Limit", Machine)
    monkeypatch.setattr(reference, "images_of", lambda work: [tmp_path / "a.jpg"])


@pytest.mark.usefixtures("machine")
def test_a_task_is_measured_once_for_both_doors() -> None:
    paces = reference.Reference(TASKS, 1.0).measure()
    assert list(paces) == TASKS
    assert paces["classify"] is paces["classify/grpc"]
    best = max(reference.Reference(TASKS, 1.0)._limit.batches)
    assert paces["classify"] == Pace(100.0 + best, 1.0)
    assert paces["detect"] == Pace(200.0 + best, 2.0)


@pytest.mark.usefixtures("machine")
def test_probes_go_round_the_tasks_while_the_run_lasts() -> None:
    watched = reference.Reference(TASKS, 1.0)
    machine: Any = watched._limit
    with watched.probing(0.001) as probes:
        assert machine.enough.wait(60)
    count = len(machine.asked)
    assert machine.asked == list(itertools.islice(itertools.cycle([0, 1]), count))
    assert probes["classify"] is probes["classify/grpc"]
    assert probes["classify"][:3] == [1.0, 3.0, 5.0]
    assert probes["detect"][:3] == [2.0, 4.0, 6.0]
