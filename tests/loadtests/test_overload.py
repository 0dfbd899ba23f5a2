"""What an overload's record is judged by."""

from __future__ import annotations

import dataclasses

import pytest

from loadtests.overload import Burst, judge, table
from loadtests.record import ERROR, OK, SHED, Pace, Record, Request
from tests.loadtests.runs import BEGAN


def burst(
    *,
    seconds: float = 1.5,
    during: float = 100.0,
    after: float = 100.0,
    retry: float | None = 2.0,
    cores: float = 2.0,
) -> Burst:
    """100 right answers per second, 100 refusals per second more while it is twice the ceiling."""
    requests = []
    for start, end, rate in ((0, 10, 100.0), (10, 40, during), (40, 50, after)):
        count = round((end - start) * rate)
        requests += [
            Request("classify", BEGAN + start - seconds + (end - start) * n / count, 0.0, seconds, OK)
            for n in range(count)
        ]
    requests += [
        Request("classify", BEGAN + 10 + n / 100, 0.0, 0.01, SHED, "status 429", retry) for n in range(3000)
    ]
    computed = [(BEGAN + at, 2.0 * min(at, 10) + cores * max(0, at - 10)) for at in range(51)]
    steps = [(10.0, 1.0), (30.0, 2.0), (10.0, 1.0)]
    return Burst(Record(BEGAN, steps, 110.0, {"classify": Pace(110.0, 0.02)}, requests), 2.0, 4, computed)


def test_refusals_and_waits_are_right() -> None:
    run = burst()
    assert (run.before, run.during, run.after) == pytest.approx((100, 100, 100), rel=0.01)
    assert run.bound == pytest.approx(2.08, rel=0.01)
    assert judge(run) == []
    assert len({line.count("|") for line in table(run).splitlines()}) == 1


def test_any_other_answer_is_named() -> None:
    run = burst()
    broken = dataclasses.replace(run.record.requests[-1], outcome=ERROR, detail="status 500: internal")
    record = dataclasses.replace(run.record, requests=[*run.record.requests[:-1], broken])
    assert judge(dataclasses.replace(run, record=record)) == ["1 x status 500: internal"]


@pytest.mark.parametrize("retry", [None, 0.0, 60.0])
def test_a_retry_after_that_does_not_fit_the_queue_is_named(retry: float | None) -> None:
    (reason,) = judge(burst(retry=retry))
    assert reason == f"3000 refusals with a Retry-After that is not 1 to 4 s, such as {retry}"


def test_accepted_requests_have_a_bound() -> None:
    (reason,) = judge(burst(seconds=3.5))
    assert reason == "accepted requests have a p99 of 3.50 s, bound 2.08 s"


def test_throughput_must_be_back() -> None:
    assert judge(burst(after=90.0)) == []
    (reason,) = judge(burst(after=50.0))
    assert reason == "2 s after: 50.0 answers/s, 100.0 before (50%, at least 85%)"


def test_no_overload_proves_nothing() -> None:
    run = burst()
    accepted = [request for request in run.record.requests if request.outcome == OK]
    calm = dataclasses.replace(run, record=dataclasses.replace(run.record, requests=accepted))
    assert judge(calm) == ["nothing was refused: this was no overload"]
    none = dataclasses.replace(run, record=dataclasses.replace(run.record, requests=[]))
    assert judge(none) == ["nothing was answered right"]


def test_throughput_stays_within_the_burst() -> None:
    assert judge(burst(during=91.0)) == []
    assert judge(burst(during=50.0, cores=1.0)) == []  # something else took the other one
    (reason,) = judge(burst(during=80.0))
    assert reason == "only 40.0 answers/s of CPU time in the burst, 50.0 before"
