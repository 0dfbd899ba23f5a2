"""What a batcher reports, as metrics."""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.batcher import Observer
from service.telemetry.metrics import Metrics


class BatcherMetrics(Observer):
    """Feeds one batcher's events into the metrics."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._size = metrics.batch_size.labels(model)
        self._queue = metrics.stage_seconds.labels(model, "queue")
        self._depth = metrics.queue_depth.labels(model)
        self._inflight = metrics.inflight_batches.labels(model)
        self._dropped = {
            reason: metrics.dropped.labels(model, reason)
            for reason in ("full", "hopeless", "expired", "cancelled")
        }

    def on_batch(self, size: int, queue_seconds: Sequence[float], compute_seconds: float) -> None:
        self._size.observe(size)
        for seconds in queue_seconds:
            self._queue.observe(seconds)

    def on_drop(self, reason: str) -> None:
        self._dropped[reason].inc()

    def on_depth(self, depth: int) -> None:
        self._depth.set(depth)

    def on_inflight(self, batches: int) -> None:
        self._inflight.set(batches)
