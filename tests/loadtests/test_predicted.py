"""How a prediction is compared with what was measured."""

from __future__ import annotations

import pytest

from loadtests.predicted import Figures, mean, measured, predicted
from loadtests.record import ERROR, OK, Record, Request
from loadtests.simulate import Curve, Plan


def test_the_worst_of_three_errors_counts() -> None:
    true = Figures(50.0, 0.1, 0.4)
    assert true.off(true) == 0
    assert Figures(45.0, 0.1, 0.4).off(true) == pytest.approx(0.1)
    assert Figures(50.0, 0.1, 0.6).off(true) == pytest.approx(0.5)


def test_right_answers_are_what_is_measured() -> None:
    requests = [Request("detect", 0.0, 0.0, seconds, OK) for seconds in (0.1, 0.2, 0.3, 0.4)]
    requests.append(Request("detect", 0.0, 0.0, 9.0, ERROR, "why"))
    assert measured(Record(0.0, [(2.0, 1.0)], 1.0, {}, requests), 2.0) == Figures(2.0, 0.2, 0.4)


def test_a_load_without_waits_takes_a_batch_and_the_overhead() -> None:
    before, after = Curve(((1, 0.03),), lone=0.02), Curve(((1, 0.05),), lone=0.02)
    curve = mean(before, after, 0.004)
    assert curve == Curve(((1, 0.04),), 0.004, 0.02)
    alone = predicted(Plan(curve, ((10.0, 0.3),), recorded=(1.0, 3.0, 5.0), max_batch=1))
    assert (alone.rate, alone.p50, alone.p99) == pytest.approx((0.3, 0.024, 0.024))
