"""The simulator: against queueing theory, and what a fleet must do whatever the load."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.plots import of_simulation
from loadtests.simulate import Curve, Outcome, Plan, Scaling, needed, row, simulate

CURVE = Curve(((1, 0.010), (2, 0.018)), 0.001)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_worker_without_batches_is_an_m_d_1_queue(load: float) -> None:
    """Its mean wait is s * load / (2 * (1 - load)): Pollaczek and Khinchine, for a fixed time s."""
    service = 0.010
    plan = Plan(
        Curve(((1, service),)),
        ((200.0, load / service),),
        workers=1,
        max_batch=1,
        max_queue=10_000,
        max_wait=1e6,
    )
    outcome = simulate(plan)
    assert not outcome.refused
    mean = sum(latency for _, latency in outcome.answered) / len(outcome.answered)
    assert mean - service == pytest.approx(service * load / (2 * (1 - load)), rel=0.15)


def test_a_batchs_time_is_linear_between_and_beyond_what_was_measured() -> None:
    curve = Curve(((1, 0.01), (2, 0.018), (4, 0.03)))
    assert [curve.seconds(size) for size in (1, 2, 3, 4, 6)] == pytest.approx(
        [0.01, 0.018, 0.024, 0.03, 0.042]
    )
    assert Curve(((1, 0.01),), 0.001).seconds(3) == pytest.approx(0.03)
    assert CURVE.rate(2) == pytest.approx(100)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_the_time_besides_a_batch_is_that_of_processor_sharing(load: float) -> None:
    """On one core s / (1 - load), whatever the distribution: Kleinrock, Queueing Systems, volume 2, 4.4."""
    service = 0.010
    plan = Plan(
        Curve(((1, 1e-9),), service),
        ((200.0, load / service),),
        workers=1,
        max_batch=128,
        max_queue=10_000,
        max_wait=1e6,
    )
    outcome = simulate(plan)
    mean = sum(latency for _, latency in outcome.answered) / len(outcome.answered)
    assert mean == pytest.approx(service / (1 - load), rel=0.15)


def test_an_image_that_has_all_cores_to_itself_is_faster_and_two_share_them() -> None:
    curve = Curve(((1, 0.010),), lone=0.006)
    alone = simulate(Plan(curve, ((10.0, 0.3),), recorded=(1.0, 2.0)))
    assert [latency for _, latency in alone.answered] == pytest.approx([0.006, 0.006])
    two = simulate(Plan(curve, ((10.0, 0.3),), recorded=(1.0, 1.001), max_batch=1, seed=3))
    first, second = sorted(latency for _, latency in two.answered)
    assert 0.006 < first < second < 0.02


@given(
    load=st.floats(0.1, 2.5),
    replicas=st.integers(1, 3),
    balancer=st.sampled_from(["round-robin", "least"]),
    failures=st.lists(st.floats(0.5, 4.0), max_size=2),
    seed=st.integers(0, 100),
)
@settings(max_examples=12, deadline=None)
def test_every_request_is_answered_or_refused_or_failed_once(
    load: float, replicas: int, balancer: str, failures: list[float], seed: int
) -> None:
    rate = load * replicas * 2 * CURVE.rate(2)
    plan = Plan(
        CURVE,
        ((5.0, rate),),
        replicas=replicas,
        balancer=balancer,
        failures=tuple(failures),
        seed=seed,
        start=1.0,
    )
    outcome = simulate(plan)
    due = sorted(plan.due())
    assert sorted([*(at for at, _ in outcome.answered), *outcome.refused, *outcome.failed]) == due
    shortest = CURVE.seconds(1) + CURVE.overhead
    assert all(shortest - 1e-6 <= latency <= plan.timeout + 1 for _, latency in outcome.answered)
    assert outcome.rate <= 2 * replicas * CURVE.rate(2) * 1.3 + 10
    assert failures or not outcome.failed
    assert simulate(plan) == outcome, "the same plan gives the same"


def test_an_overload_is_shed_and_capacity_stays() -> None:
    capacity = 2 * CURVE.rate(2)
    outcome = simulate(Plan(CURVE, ((30.0, 2 * capacity),)))
    assert outcome.rate == pytest.approx(capacity, rel=0.05)
    assert outcome.lost == pytest.approx(0.5, abs=0.05)
    assert outcome.percentile(0.99) < 2.1, "LYNCEUS_MAX_WAIT_SECONDS and a batch"


def test_as_many_replicas_as_are_needed_and_no_more() -> None:
    plan = Plan(CURVE, ((20.0, 500.0),))
    found = needed(plan, 0.1)
    assert simulate(replace(plan, replicas=found)).percentile(0.99) < 0.1
    fewer = simulate(replace(plan, replicas=found - 1))
    assert fewer.percentile(0.99) >= 0.1 or fewer.lost > 0.001
    with pytest.raises(ValueError, match="no other before it"):
        needed(plan, 0.005)


def test_the_autoscaler_follows_a_spike_and_goes_back() -> None:
    slow = Curve(((1, 0.040), (2, 0.072)), 0.004)
    steps = ((60.0, 15.0), (120.0, 112.5), (600.0, 7.5))
    outcome = simulate(Plan(slow, steps, replicas=2, scaling=Scaling(8), start=20.0))
    counts = [count for at, count in outcome.replicas if at > 0]
    assert max(counts) > 2
    assert outcome.replicas[-1][1] == 2
    first = next(at for at, count in outcome.replicas if count > 2)
    assert 60 + 20 < first < 60 + 120, "noticed, stabilized, started"


def test_the_dead_replicas_place_is_taken() -> None:
    outcome = simulate(Plan(CURVE, ((30.0, 300.0),), replicas=3, failures=(10.0,), start=5.0))
    assert [count for at, count in outcome.replicas if at > 0] == [2, 3]
    assert outcome.replicas[-1][0] == pytest.approx(15.0)
    assert len(outcome.failed) < 20


def test_recorded_arrivals_are_taken_as_they_are() -> None:
    outcome = simulate(Plan(CURVE, ((10.0, 0.3),), recorded=(1.0, 1.0, 1.0, 9.0)))
    assert [at for at, _ in outcome.answered].count(1.0) == 3
    assert outcome.length == pytest.approx(10.0)


def test_what_is_told() -> None:
    plan = Plan(CURVE, ((60.0, 100.0),))
    outcome = simulate(plan)
    assert outcome.cost(1.0) == pytest.approx(60 / 3600 / len(outcome.answered) * 1e6)
    assert row(plan, outcome, 1.0).count("|") == 10
    assert of_simulation(outcome, 1.0).startswith("<svg")
    assert math.isnan(Outcome().percentile(0.5))
