"""The record of a run: every request, the service's metrics by the second, and what the machine can do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, SHED, ERROR = "ok", "shed", "error"


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        task: as in `slo.toml`.
        due: when it was due; seconds since 1970.
        late: seconds that it was sent after that.
        seconds: from `due` to the end of the answer.
        outcome: ``ok``; ``shed``: refused since the queue was full; ``error``: anything else.
        detail: what was wrong.
        retry_after: seconds, of a refusal.
        batch: size of the batch that computed it, where known.
    """

    task: str
    due: float
    late: float
    seconds: float
    outcome: str
    detail: str = ""
    retry_after: float | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """`/metrics` at a moment: each series, such as ``lynceus_queue_depth{model="mtcnn"}``, to its value."""

    time: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Pace:
    """The machine's rate of a task in process, without a server.

    Attributes:
        rate: requests per second of all cores, at the best batch size.
        seconds: that one request takes on its own, measured while the run lasted.
    """

    rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Record:
    """One run.

    Attributes:
        began: when the schedule began, seconds since 1970.
        steps: seconds and level of each step of the shape.
        ceiling: requests of the mix per second that the machine can do in process.
        paces: of each task.
        requests: in the order of their answers.
        samples: in the order of time.
        facts: anything else that a reader of the report wants to know.
    """

    began: float
    steps: Sequence[tuple[float, float]]
    ceiling: float
    paces: Mapping[str, Pace]
    requests: Sequence[Request]
    samples: Sequence[Sample] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        """What `write` wrote."""
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["steps"] = [(seconds, level) for seconds, level in found["steps"]]
        found["paces"] = {task: Pace(**pace) for task, pace in found["paces"].items()}
        found["requests"] = [Request(**request) for request in found["requests"]]
        found["samples"] = [Sample(**sample) for sample in found["samples"]]
        return cls(**found)


def ceiling_of(mix: Mapping[str, float], paces: Mapping[str, Pace]) -> float:
    """Requests of a mix per second, where each task's share takes its share of the machine's time."""
    return sum(mix.values()) / sum(weight / paces[task].rate for task, weight in mix.items())


def percentile(values: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile: a value that occurred; 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[max(0, min(len(ordered) - 1, -int(-percent * len(ordered) // 100) - 1))]
