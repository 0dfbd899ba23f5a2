"""Does a recorded run keep the limits of `slo.toml`? Exits 1 and says why in one line where it does not.

    python -m loadtests.verdict build/loadtest/record.json

Latencies and refusals are judged where the shape asks for no more than the profile's load; errors everywhere.
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loadtests import command
from loadtests.asks import work_of
from loadtests.record import ERROR, OK, SHED, Record, Request, percentile
from loadtests.shapes import calm

SLO = Path(__file__).with_name("slo.toml")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one task.

    Attributes:
        p50, p99: of the latency of right answers, in times of one request alone in process.
        error_rate, shed_rate: shares of all requests.
    """

    p50: float
    p99: float
    error_rate: float
    shed_rate: float


@dataclass(frozen=True, slots=True)
class Slo:
    """What a run asks and what it demands.

    Attributes:
        load: offered, as a share of the ceiling.
        arrivals: ``poisson`` or ``fixed``.
        settle: seconds after a burst in which latencies and refusals are not judged.
        mix: weight of each task.
        limits: of each task.
    """

    load: float
    arrivals: str
    settle: float
    mix: Mapping[str, float]
    limits: Mapping[str, Limits]


def read_slo(path: Path = SLO) -> Slo:
    """Reads the limits.

    Raises:
        ValueError: a name that means nothing, or a value out of range.
    """
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    profile, mix, general = (document.pop(name, {}) for name in ("profile", "mix", "limits"))
    tasks = document.pop("tasks", {})
    names = [field.name for field in fields(Limits)]
    _known(document, (), path.name)
    _known(profile, ("load", "arrivals", "settle_seconds"), "[profile]")
    _known(general, names, "[limits]")
    for task, own in tasks.items():
        _known({task: 0}, mix, "[tasks]")
        _known(own, names, f"[tasks.{task}]")
    for task in mix:
        work_of(task)
    numbers = [
        *mix.values(),
        profile["load"],
        *general.values(),
        *(v for own in tasks.values() for v in own.values()),
    ]
    if not mix or any(number < 0 for number in numbers) or not sum(mix.values()) * profile["load"] > 0:
        raise ValueError(f"{path.name}: no load, or a number below 0")
    limits = {task: Limits(**(general | tasks.get(task, {}))) for task in mix}
    return Slo(profile["load"], profile["arrivals"], profile["settle_seconds"], mix, limits)


def _known(found: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    if unknown := sorted(set(found) - set(names)):
        raise ValueError(f"{where}: {', '.join(unknown)} means nothing here")


@dataclass(frozen=True, slots=True)
class Row:
    """One task of a run, and what it may be. Latencies in seconds; of `judged` requests, those sent in calm,
    `shed` were refused."""

    task: str
    count: int
    judged: int
    shed: int
    errors: int
    p50: float
    p99: float
    most_p50: float
    most_p99: float


def rows(record: Record, slo: Slo) -> list[Row]:
    """What each task of the mix did, latencies and refusals while it was calm."""
    calms = [(record.began + a, record.began + b) for a, b in calm(list(record.steps), slo.load, slo.settle)]
    found = []
    for task in slo.mix:
        mine = [request for request in record.requests if request.task == task]
        judged = [request for request in mine if any(a <= request.due < b for a, b in calms)]
        seconds = [request.seconds for request in judged if request.outcome == OK]
        pace, limits = record.paces[task].seconds, slo.limits[task]
        found.append(
            Row(
                task,
                len(mine),
                len(judged),
                sum(request.outcome == SHED for request in judged),
                sum(request.outcome == ERROR for request in mine),
                percentile(seconds, 50),
                percentile(seconds, 99),
                limits.p50 * pace,
                limits.p99 * pace,
            )
        )
    return found


def judge(record: Record, slo: Slo) -> list[str]:
    """Each limit that was passed, in words; none where the run keeps them all."""
    reasons = []
    for row in rows(record, slo):
        limits, pace = slo.limits[row.task], record.paces[row.task].seconds
        if not row.count:
            reasons.append(f"{row.task}: not one request")
            continue
        if row.errors > limits.error_rate * row.count:
            reasons.append(
                f"{row.task}: {row.errors} of {row.count} answers are errors "
                f"({_percent(row.errors, row.count)}, limit {100 * limits.error_rate:g}%): "
                f"{_commonest(record.requests, row.task)}"
            )
        if row.shed > limits.shed_rate * row.judged:
            reasons.append(
                f"{row.task}: {row.shed} of {row.judged} requests were refused "
                f"({_percent(row.shed, row.judged)}, limit {100 * limits.shed_rate:g}%)"
            )
        for name, value, most, times in (
            ("p50", row.p50, row.most_p50, limits.p50),
            ("p99", row.p99, row.most_p99, limits.p99),
        ):
            if value > most:
                reasons.append(
                    f"{row.task}: {name} {1000 * value:.0f} ms, limit {1000 * most:.0f} ms "
                    f"({times:g} times {1000 * pace:.1f} ms in process)"
                )
    return reasons


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.2g}%"


def _commonest(requests: Sequence[Request], task: str) -> str:
    counts = Counter(each.detail for each in requests if each.task == task and each.outcome == ERROR)
    return counts.most_common(1)[0][0].replace("\n", " ")[:120]


def sentence(reasons: Sequence[str]) -> str:
    """One line."""
    return f"FAILED: {'; '.join(reasons)}" if reasons else "PASSED: every limit was kept"


def table(record: Record, slo: Slo) -> str:
    """Markdown: a row for each task, with its limits."""
    lines = [
        "| task | requests | refused | errors | p50 ms (limit) | p99 ms (limit) | alone in process, ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.task} | {row.count} | {row.shed} | {row.errors} "
        f"| {1000 * row.p50:.0f} ({1000 * row.most_p50:.0f}) "
        f"| {1000 * row.p99:.0f} ({1000 * row.most_p99:.0f}) "
        f"| {1000 * record.paces[row.task].seconds:.1f} |"
        for row in rows(record, slo)
    ]
    return "\n".join(lines)


def lateness(record: Record) -> str:
    """How well the generator kept its schedule; what it was late is in the latencies."""
    late = [request.late for request in record.requests]
    over = sum(each > 0.01 for each in late)
    return (
        f"{over} of {len(late)} requests left more than 10 ms late "
        f"(p99 {1000 * percentile(late, 99):.0f} ms); latencies count from the schedule"
    )


def main() -> int:
    """Prints the table and the sentence."""
    parser = command.parser(__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--slo", type=Path, default=SLO)
    options = parser.parse_args()
    record, slo = Record.read(options.record), read_slo(options.slo)
    reasons = judge(record, slo)
    print(table(record, slo), lateness(record), sentence(reasons), sep="\n\n")
    return int(bool(reasons))


if __name__ == "__main__":
    sys.exit(main())
