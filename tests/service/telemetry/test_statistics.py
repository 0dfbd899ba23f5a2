"""Statistics read back from the metrics: of one process, and added up over several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.engine.observer import BatcherMetrics
from service.oip.documents import model_statistics as statistics
from service.telemetry.metrics import BatchTimes, Metrics
from service.telemetry.statistics import Statistics, read
from tests.paths import ROOT


def test_nothing_has_happened() -> None:
    assert read(Metrics()) == {}
    document = statistics("m", Statistics(), inline=True)
    assert (document["inference_count"], document["execution_count"], document["last_inference"]) == (0, 0, 0)
    assert {key for key, spent in document["inference_stats"].items() if spent == {"count": 0, "ns": 0}} == {
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    }
    assert document["batch_stats"] == []


@pytest.mark.parametrize("inline", [True, False])
def test_pictures_count_their_batches_whole_time(inline: bool) -> None:
    metrics = Metrics()
    times = BatchTimes(metrics, "m")
    times.observe(1, 0.001, 0.010, 0.002)
    times.observe(4, 0.004, 0.020, 0.003)
    times.observe(4, 0.004, 0.040, 0.003)
    BatcherMetrics(metrics, "m").on_batch(1, [0.5], 0.0)
    for _ in range(9):
        metrics.stage_seconds.labels("m", "decode").observe(0.001)
    metrics.failed_seconds.labels("m").observe(0.25)
    BatchTimes(metrics, "other").observe(2, 1.0, 1.0, 1.0)

    document = statistics("m", read(metrics)["m"], inline=inline)
    assert (document["inference_count"], document["execution_count"]) == (9, 3)
    spent = {key: (one["count"], one["ns"]) for key, one in document["inference_stats"].items()}
    prepare = 33_000_000 if inline else 9_000_000
    assert spent["compute_input"] == (9, prepare)
    assert spent["compute_infer"] == (9, 10_000_000 + 4 * 60_000_000)
    assert spent["compute_output"] == (9, 2_000_000 + 4 * 6_000_000)
    assert spent["queue"] == (1, 500_000_000)
    assert spent["fail"] == (1, 250_000_000)
    assert spent["success"] == (9, 500_000_000 + prepare + 250_000_000 + 26_000_000)
    assert document["batch_stats"] == [
        {
            "batch_size": 1,
            "compute_input": {"count": 1, "ns": 1_000_000},
            "compute_infer": {"count": 1, "ns": 10_000_000},
            "compute_output": {"count": 1, "ns": 2_000_000},
        },
        {
            "batch_size": 4,
            "compute_input": {"count": 2, "ns": 8_000_000},
            "compute_infer": {"count": 2, "ns": 60_000_000},
            "compute_output": {"count": 2, "ns": 6_000_000},
        },
    ]


WORKER = """
import sys
from service.engine.observer import BatcherMetrics
from service.telemetry.metrics import BatchTimes, Metrics
from service.telemetry.statistics import read
metrics = Metrics()
times = BatchTimes(metrics, "m")
for _ in range(int(sys.argv[1])):
    times.observe(2, 0.0, 0.5, 0.0)
    metrics.failed_seconds.labels("m").observe(0.5)
found = read(metrics)["m"]
batches, failed = found.batches.total(), found.images["failed"]
print(found.inferences, batches, found.waited("compute"), failed, found.last > 0)
"""


def test_all_workers_are_added_up(tmp_path: Path) -> None:
    def worker(batches: int) -> list[str]:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", WORKER, str(batches)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=True,
        )
        return done.stdout.decode().split()

    assert worker(3) == ["6", "3", "3.0", "3", "True"]
    assert worker(2) == ["10", "5", "5.0", "5", "True"]
    assert worker(0) == ["10", "5", "5.0", "5", "True"]
