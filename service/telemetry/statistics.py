"""What the batchers have done since the start, read back from the metrics.

The metrics are the one source: they are summed over all workers (see `service.telemetry.metrics`), so these
figures are the same from every worker. An image counts once for every model that it went through.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

from service.telemetry.metrics import Metrics

Stage = Literal["prepare", "compute", "postprocess"]


@dataclass(slots=True)
class Statistics:
    """One model's figures.

    Attributes:
        last: when its latest batch gave results, seconds since 1970; 0 before.
        batches: how many gave results, by size.
        seconds: that they took, by size and stage.
        images: how many were decoded (`decode`), waited (`queue`), and got no result (`failed`).
        spent: their seconds: in decoding and preprocessing, in the queue, until they failed.
    """

    last: float = 0.0
    batches: Counter[int] = field(default_factory=Counter)
    seconds: dict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    images: Counter[str] = field(default_factory=Counter)
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def inferences(self) -> int:
        """Images that got a result."""
        return sum(size * count for size, count in self.batches.items())

    def waited(self, stage: Stage) -> float:
        """Seconds that all images spent in a stage: each of them the whole time of its batch."""
        return sum(size * self.seconds[size, stage] for size in self.batches)


def read(metrics: Metrics) -> dict[str, Statistics]:
    """The figures of every model that has had a request, by name."""
    models: dict[str, Statistics] = defaultdict(Statistics)
    for family in metrics.collect():
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            if "model" not in labels:
                continue
            model, stage = models[labels["model"]], labels.get("stage", "failed")
            match sample.name:
                case "lynceus_batches_total":
                    model.batches[int(labels["size"])] += int(value)
                case "lynceus_batch_seconds_total":
                    model.seconds[int(labels["size"]), stage] += value
                case "lynceus_last_batch_timestamp_seconds":
                    model.last = value
                case "lynceus_failed_seconds_count" | "lynceus_stage_seconds_count":
                    model.images[stage] += int(value)
                case "lynceus_failed_seconds_sum" | "lynceus_stage_seconds_sum":
                    model.spent[stage] += value
    return models
