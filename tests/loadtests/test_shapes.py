"""Shapes of load: what is asked for at which time, and when it is calm."""

from __future__ import annotations

import pytest

from loadtests.shapes import SHAPES, calm, level_at


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_takes_the_time_it_is_given(name: str) -> None:
    steps = SHAPES[name].timed(90.0, 0.5)
    assert sum(seconds for seconds, _ in steps) == pytest.approx(90.0)
    assert all(level > 0 for _, level in steps)
    assert level_at(steps, 90.1) is None


def test_steady_and_soak_keep_the_level_that_is_asked_for() -> None:
    for name in ("steady", "soak"):
        assert SHAPES[name].timed(10.0, 0.7) == [(10.0, 0.7)]
    assert SHAPES["soak"].seconds >= 3600


def test_the_ramp_rises_evenly_to_beyond_the_ceiling() -> None:
    levels = [level for _, level in SHAPES["ramp"].timed(120.0, 0.5)]
    assert levels == sorted(levels)
    assert levels[0] <= 0.1
    assert levels[-1] > 1


def test_the_spike_has_calm_on_both_sides() -> None:
    steps = SHAPES["spike"].timed(60.0, 0.5)
    assert [level_at(steps, second) for second in (0.0, 19.9, 20.1, 29.9, 30.1, 59.9)] == [
        0.5,
        0.5,
        2.0,
        2.0,
        0.5,
        0.5,
    ]
    assert list(calm(steps, 0.5, 5.0)) == [(0.0, 20.0), (35.0, 60.0)]


def test_calm_is_where_no_more_than_the_load_is_asked_for() -> None:
    assert list(calm([(60.0, 0.5)], 0.5, 5.0)) == [(0.0, 60.0)]
    assert list(calm([(30.0, 2.0)], 0.5, 5.0)) == []
    ramp = SHAPES["ramp"].timed(120.0, 0.5)
    assert list(calm(ramp, 0.5, 5.0))[-1][1] == pytest.approx(50.0)
    assert list(calm([(10.0, 2.0), (3.0, 0.5), (10.0, 2.0), (9.0, 0.5)], 0.5, 5.0)) == [(28.0, 32.0)]
