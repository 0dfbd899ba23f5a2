"""Recorded runs for the tests of the load tests' verdict and report, made up but exact."""

from __future__ import annotations

import dataclasses
from typing import Any

from loadtests.record import ERROR, OK, SHED, Pace, Record, Request, Sample
from loadtests.verdict import Limits, Slo

BEGAN = 1_700_000_000.0
SLO = Slo(
    load=0.5,
    arrivals="fixed",
    settle=5.0,
    mix={"classify": 3.0, "verify": 1.0},
    limits={
        "classify": Limits(p50=4.0, p99=20.0, error_rate=0.001, shed_rate=0.01),
        "verify": Limits(p50=4.0, p99=10.0, error_rate=0.001, shed_rate=0.01),
    },
)
PACES = {"classify": Pace(rate=150.0, seconds=0.010), "verify": Pace(rate=20.0, seconds=0.100)}


def requests(task: str, count: int, seconds: float, *, length: float = 60.0) -> list[Request]:
    """Right answers of one latency, evenly over the run."""
    return [
        Request(task, BEGAN + length * number / count, 0.0, seconds, OK, batch=1) for number in range(count)
    ]


def honest(**changes: Any) -> Record:
    """A minute at half the ceiling: 20 ms for what takes 10 alone, 150 for what takes 100."""
    samples = [
        Sample(
            BEGAN + second,
            {
                'lynceus_queue_depth{model="efficientnet-lite0"}': float(second % 3),
                'lynceus_batch_size_sum{model="efficientnet-lite0"}': 30.0 * second,
                'lynceus_batch_size_count{model="efficientnet-lite0"}': 20.0 * second,
            },
        )
        for second in range(60)
    ]
    record = Record(
        BEGAN,
        [(60.0, 0.5)],
        44.4,
        PACES,
        [*requests("classify", 1500, 0.020), *requests("verify", 500, 0.150)],
        samples,
        {"machine": "2 cores of <nothing>"},
    )
    return dataclasses.replace(record, **changes)


def failed(record: Record, task: str, every: int, outcome: str = ERROR) -> Record:
    """The same run with every so-many-th answer of a task an error, or refused."""
    detail = "status 500: internal" if outcome == ERROR else "status 429: overloaded"
    mine = [request for request in record.requests if request.task == task]
    chosen = {id(request) for request in mine[every - 1 :: every]}
    assert outcome in (ERROR, SHED)
    return dataclasses.replace(
        record,
        requests=[
            dataclasses.replace(request, outcome=outcome, detail=detail) if id(request) in chosen else request
            for request in record.requests
        ],
    )
