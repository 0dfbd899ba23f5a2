"""How far a training is, by steps or by the clock."""

from __future__ import annotations

import numpy as np
import pytest

from models.training.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_progress_by_epochs_counts_steps() -> None:
    progress = Progress(steps=20)
    seen = []
    while progress.value < 1:
        progress.step()
        seen.append(progress.value)
    np.testing.assert_allclose(seen, np.arange(1, 21) / 20)


def test_progress_by_time_ends_on_time() -> None:
    clock = Clock()
    progress = Progress(steps=1, minutes=10, clock=clock)
    random = np.random.default_rng(0)
    while progress.value < 1:
        clock.now += random.uniform(1, 5)
        progress.step()
    assert clock.now - 1000 == pytest.approx(600, abs=5)
    assert progress.active == pytest.approx(600, abs=5)


def test_a_stopped_process_loses_no_budget_but_keeps_the_deadline() -> None:
    for deadline, end in ((None, 600 + 300), (1000.0 + 700, 700)):
        clock = Clock()
        progress = Progress(steps=1, minutes=10, deadline=deadline, clock=clock)
        for step in range(10_000):
            clock.now += 300 if step == 50 else 2
            before = progress.value
            progress.step()
            assert progress.value >= before
            if progress.value >= 1:
                break
        assert clock.now - 1000 == pytest.approx(end, abs=5)


def test_a_measurement_is_not_a_step() -> None:
    clock = Clock()
    progress = Progress(steps=1, minutes=1, clock=clock)
    clock.now += 2
    progress.step()
    clock.now += 9
    progress.skip()
    clock.now += 2
    progress.step()
    assert progress.active == 4
