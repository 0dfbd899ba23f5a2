"""The service's own metrics, by the second."""

from __future__ import annotations

import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from loadtests.record import Sample
from loadtests.reference import every

WANTED = (
    "lynceus_queue_depth",
    "lynceus_inflight_batches",
    "lynceus_batch_size_sum",
    "lynceus_batch_size_count",
    "lynceus_batches_total",
    "lynceus_batch_seconds_total",
)


def read(text: str, wanted: Sequence[str] = WANTED) -> dict[str, float]:
    """The wanted series of a Prometheus text, each as ``name{label="value"}``, to their values."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in wanted:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = float(sample.value)
    return found


@contextmanager
def sampled(address: str) -> Iterator[list[Sample]]:
    """Fetches a server's `/metrics` once a second meanwhile; an answer that fails is left out.

    Args:
        address: ``host:port``.

    Yields:
        those so far.
    """
    samples: list[Sample] = []

    def look() -> None:
        now = time.time()
        # an overloaded server may be too late, a stopped one is gone
        with (
            suppress(OSError, ValueError),
            urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer,
        ):
            samples.append(Sample(now, read(str(answer.read(), "utf-8"))))

    look()
    with every(1.0, look):
        yield samples


def by_model(samples: Sequence[Sample], name: str) -> dict[str, list[tuple[float, float]]]:
    """A metric's curve for each model: times and values."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for series, value in sample.values.items():
            if series.startswith(name + "{"):
                curves[_model(series)].append((sample.time, value))
    return dict(curves)


def mean_batches(samples: Sequence[Sample]) -> dict[str, list[tuple[float, float]]]:
    """For each model, between each two samples with batches in between: their mean size."""
    sizes, counts = by_model(samples, "lynceus_batch_size_sum"), by_model(samples, "lynceus_batch_size_count")
    curves: dict[str, list[tuple[float, float]]] = {}
    for model, totals in sizes.items():
        number = dict(counts.get(model, ()))
        points = [
            (later, (images - before) / (number[later] - number[earlier]))
            for (earlier, before), (later, images) in pairwise(totals)
            if number.get(later, 0) > number.get(earlier, 0)
        ]
        if points:
            curves[model] = points
    return curves


def batch_seconds(samples: Sequence[Sample]) -> dict[str, float]:
    """How long a batch took in the mean, of each model that had some from the first sample to the last."""
    if not samples:
        return {}

    def grown(name: str) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for sign, sample in ((-1, samples[0]), (1, samples[-1])):
            for series, value in sample.values.items():
                if series.startswith(name + "{"):
                    found[_model(series)] += sign * value
        return found

    seconds = grown("lynceus_batch_seconds_total")
    return {
        model: seconds[model] / number
        for model, number in grown("lynceus_batches_total").items()
        if number > 0
    }


def _model(series: str) -> str:
    labels: Mapping[str, str] = dict(
        label.split("=", 1) for label in series.partition("{")[2].rstrip("}").split(",") if "=" in label
    )
    return labels.get("model", "").strip('"')
