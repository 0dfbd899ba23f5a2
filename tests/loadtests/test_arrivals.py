"""When the requests of an open load leave."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter

import pytest

from loadtests.answers import labels, problem_of
from loadtests.arrivals import departures, gaps
from loadtests.asks import drawer


def test_fixed_arrivals_are_evenly_spaced() -> None:
    found = list(departures([(2.0, 4.0)], gaps("fixed", 1)))
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75])


def test_a_gap_goes_on_in_the_next_step_at_its_rate() -> None:
    # at 0.5/s half of the first gap is over after a second; the rest takes a quarter of one at 2/s
    found = list(departures([(1.0, 0.5), (1.0, 2.0)], gaps("fixed", 1)))
    assert found == pytest.approx([1.25, 1.75])


def test_a_pause_is_a_step_without_requests() -> None:
    found = list(departures([(1.1, 2.0), (5.0, 0.0), (1.0, 2.0)], gaps("fixed", 1)))
    assert found == pytest.approx([0.5, 1.0, 6.5, 7.0])


def test_poisson_arrivals_have_the_rate_and_the_spread() -> None:
    found = list(departures([(1000.0, 20.0)], gaps("poisson", 7)))
    between = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert len(found) == pytest.approx(20_000, rel=0.03)
    # an exponential distribution's deviation is its mean
    assert statistics.pstdev(between) == pytest.approx(statistics.mean(between), rel=0.05)
    assert found == sorted(found)


def test_a_seed_gives_the_same_schedule() -> None:
    steps = [(10.0, 5.0), (10.0, 50.0)]
    first, again, other = (list(departures(steps, gaps("poisson", seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_each_step_has_its_rate() -> None:
    found = list(departures([(200.0, 10.0), (100.0, 40.0), (200.0, 10.0)], gaps("poisson", 3)))
    counts = Counter(0 if due < 200 else 1 if due < 300 else 2 for due in found)
    assert [counts[step] for step in range(3)] == pytest.approx([2000, 4000, 2000], rel=0.08)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="fixed or poisson"):
        gaps("bursty", 1)


def test_tasks_are_drawn_by_weight_and_by_seed() -> None:
    draw, again = drawer({"a": 3, "b": 1}, 1), drawer({"a": 3, "b": 1}, 1)
    found = [draw() for _ in range(4000)]
    assert found == [again() for _ in range(4000)]
    assert found.count("a") == pytest.approx(3000, rel=0.05)


GOOD = '{"labels": [{"score": 0.9}, {"score": 0.1}], "image": {"width": 1, "height": 1}}'


@pytest.mark.parametrize(
    ("status", "text", "problem"),
    [
        (200, GOOD, None),
        (200, GOOD.replace("0.1", "0.95"), "out of order"),
        (200, '{"labels": []}', "0 labels"),
        (200, "{}", "not an answer of the schema"),
        (200, "", "no JSON"),
        (429, "full", "status 429: full"),
    ],
)
def test_an_answer_is_looked_at(status: int, text: str, problem: str | None) -> None:
    found = problem_of(status, text, labels(2))
    assert (found is None) if problem is None else (found is not None and problem in found)
