"""What the batchers have done since the start, read back from the metrics.

The metrics are the one source: they are summed over all workers (see `service.telemetry.metrics`), so these
figures are the same from every worker. An image counts once for every model that it went through.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from service.telemetry.metrics import Metrics

Stage = Literal["prepare", "compute", "postprocess"]


@dataclass(slots=True)
class Spent:
    """How often, and how many seconds in all."""

    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Batches:
    """All batches of one size.

    Attributes:
        count: how many there were.
        seconds: in all of them, by stage.
    """

    count: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(slots=True)
class Statistics:
    """One model's figures.

    Attributes:
        last: when its latest batch gave results, seconds since 1970; 0 before.
        sizes: its batches by size.
        decode: images decoded and preprocessed, wherever that was done.
        queue: waits of the images.
        failed: images without a result, from their admission to their failure.
    """

    last: float = 0.0
    sizes: dict[int, Batches] = field(default_factory=lambda: defaultdict(Batches))
    decode: Spent = field(default_factory=Spent)
    queue: Spent = field(default_factory=Spent)
    failed: Spent = field(default_factory=Spent)

    @property
    def inferences(self) -> int:
        """Images that got a result."""
        return sum(size * batches.count for size, batches in self.sizes.items())

    @property
    def executions(self) -> int:
        """Batches that gave results."""
        return sum(batches.count for batches in self.sizes.values())

    def waited(self, stage: Stage) -> float:
        """Seconds that all images spent in a stage: each of them the whole time of its batch."""
        return sum(size * batches.seconds[stage] for size, batches in self.sizes.items())


def read(metrics: Metrics) -> dict[str, Statistics]:
    """The figures of every model that has had a request, by name."""
    models: dict[str, Statistics] = defaultdict(Statistics)
    for family in metrics.collect():
        for sample in family.samples:
            name, labels, value = sample.name, sample.labels, sample.value
            match name:
                case "lynceus_batches_total":
                    models[labels["model"]].sizes[int(labels["size"])].count += int(value)
                case "lynceus_batch_seconds_total":
                    models[labels["model"]].sizes[int(labels["size"])].seconds[labels["stage"]] += value
                case "lynceus_last_batch_timestamp_seconds":
                    models[labels["model"]].last = value
                case "lynceus_failed_seconds_count" | "lynceus_failed_seconds_sum":
                    _add(models[labels["model"]].failed, name, value)
                case "lynceus_stage_seconds_count" | "lynceus_stage_seconds_sum":
                    if labels["stage"] in ("decode", "queue"):
                        _add(getattr(models[labels["model"]], labels["stage"]), name, value)
    return models


def _add(spent: Spent, name: str, value: float) -> None:
    if name.endswith("_count"):
        spent.count += int(value)
    else:
        spent.seconds += value
