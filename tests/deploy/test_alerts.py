"""Which series make an alert fire, and which do not."""

from __future__ import annotations

import pytest

from tests.deploy.evaluate import STEP, Series, fires
from tests.deploy.files import rules

HERE = {"job": "lynceus", "instance": "a", "namespace": "n"}
MODEL = HERE | {"model": "detector"}
SAMPLES = 15 * 60 // STEP + 1
MINUTE = 60 // STEP

ALERTS = {rule["alert"]: rule for rule in rules("alert")}


def flat(value: float) -> list[float]:
    return [value] * SAMPLES


def rising(per_minute: float, until: int = SAMPLES) -> list[float]:
    """A counter that stops rising at a sample."""
    return [per_minute / MINUTE * min(index, until) for index in range(SAMPLES)]


def stalled(depth: float, inflight: float, batches: list[float]) -> Series:
    return {
        "lynceus_queue_depth": [(MODEL, flat(depth))],
        "lynceus_inflight_batches": [(MODEL, flat(inflight))],
        "lynceus_batch_size_count": [(MODEL, batches)],
    }


def hangs(seconds: float, at: int) -> Series:
    """A hang that one scrape sees."""
    return {
        "lynceus_hang_seconds": [
            (HERE | {"what": "model"}, flat(0.0)),
            (HERE | {"what": "worker"}, [seconds if index == at else 0.0 for index in range(SAMPLES)]),
        ]
    }


def waits(seconds: float) -> Series:
    labels = MODEL | {"stage": "queue"}
    return {
        "lynceus_stage_seconds_sum": [(labels, rising(60 * seconds))],
        "lynceus_stage_seconds_count": [(labels, rising(60))],
    }


def lag(slow: float) -> Series:
    """A share of the timers comes late by up to a second, the others at once."""
    buckets = {"0.001": 1 - slow, "0.5": 1 - slow, "1.0": 1.0, "+Inf": 1.0}
    return {
        "lynceus_loop_lag_seconds_bucket": [
            (HERE | {"le": le}, rising(120 * share)) for le, share in buckets.items()
        ]
    }


def counter(name: str, steps: dict[int, float], **labels: str) -> Series:
    total, values = 0.0, []
    for index in range(SAMPLES):
        total += steps.get(index, 0.0)
        values.append(total)
    return {name: [(HERE | labels, values)]}


@pytest.mark.parametrize(
    ("alert", "series", "expected"),
    [
        ("LynceusModelStalled", stalled(0, 1, rising(60, until=SAMPLES - 7 * MINUTE)), True),  # nothing waits
        ("LynceusModelStalled", stalled(5, 1, rising(60, until=SAMPLES - 7 * MINUTE)), True),
        ("LynceusModelStalled", stalled(0, 0, rising(0)), False),  # idle
        ("LynceusModelStalled", stalled(50, 1, rising(60)), False),  # busy
        ("LynceusHangs", hangs(18.0, SAMPLES - MINUTE), True),
        ("LynceusHangs", hangs(18.0, SAMPLES - 4 * MINUTE), False),  # it is over
        ("LynceusHangs", hangs(4.0, SAMPLES - MINUTE), False),
        ("LynceusQueueSaturated", waits(1.5), True),
        ("LynceusQueueSaturated", waits(0.5), False),
        ("LynceusLoopLag", lag(0.02), True),
        ("LynceusLoopLag", lag(0.005), False),
        ("LynceusLogDropped", counter("lynceus_log_dropped_total", {SAMPLES - 8: 3.0}), True),
        ("LynceusLogDropped", counter("lynceus_log_dropped_total", {2: 3.0}), False),
        ("LynceusWorkerDied", counter("lynceus_worker_deaths_total", {SAMPLES - 9: 1.0}, signal="OOM"), True),
        ("LynceusWorkerDied", counter("lynceus_worker_deaths_total", {}, signal="OOM"), False),
        ("LynceusWorkersRestart", counter("lynceus_worker_starts_total", {0: 8.0}), False),  # its own start
        ("LynceusWorkersRestart", counter("lynceus_worker_starts_total", {9: 1.0, 20: 1.0, 30: 2.0}), True),
    ],
)
def test_an_alert_fires_for_what_it_is_for(alert: str, series: Series, expected: bool) -> None:
    assert bool(fires(ALERTS[alert], series, SAMPLES)) is expected
