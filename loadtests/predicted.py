"""Does the simulator of `loadtests.simulate` predict a real server of one replica?

    python -m loadtests.predicted --task detect

The same Poisson arrivals go to a server and to the simulator, at 50%, 80% and 120% of what the machine can do
with batches of the largest size, the load generator's time included. A batch's time on one core while all
cores work, and that of one image on all cores, are measured in process before and after each level, since
machines drift; the load generator's CPU time for a request, which the same cores pay, at the level itself.
Exits 1 where a prediction is further off than `--within`.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from loadtests import command
from loadtests.arrivals import departures, gaps
from loadtests.asks import images_of
from loadtests.capacity import curve
from loadtests.limit import Limit, layouts
from loadtests.opened import Opened, run
from loadtests.overload import PROFILE
from loadtests.record import ERROR, OK, Record, percentile
from loadtests.server import Server
from loadtests.simulate import Curve, Plan, simulate
from loadtests.tasks import TASKS, Work
from loadtests.verdict import lateness, read_slo, sentence

LEVELS = (0.5, 0.8, 1.2)
TIMES = 15  # that one image alone is measured
SECONDS, WARM = 2.0, 5.0  # of one measurement of a batch's time, and of the first load


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run: answers per second, and of their latencies p50 and p99 in seconds."""

    rate: float
    p50: float
    p99: float

    def off(self, measured: Figures) -> float:
        """The largest relative error of a prediction."""
        pairs = zip((self.rate, self.p50, self.p99), (measured.rate, measured.p50, measured.p99), strict=True)
        return max(abs(predicted / true - 1) for predicted, true in pairs)

    def __str__(self) -> str:
        return f"{self.rate:.1f} | {1000 * self.p50:.0f} | {1000 * self.p99:.0f}"


def measured(record: Record, seconds: float) -> Figures:
    """Of the right answers."""
    latencies = [request.seconds for request in record.requests if request.outcome == OK]
    return Figures(len(latencies) / seconds, percentile(latencies, 50), percentile(latencies, 99))


def predicted(plan: Plan) -> Figures:
    """By the simulator."""
    outcome = simulate(plan)
    return Figures(outcome.rate, outcome.percentile(0.5), outcome.percentile(0.99))


def cpu_of_children() -> float:
    """CPU seconds of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Curves:
    """Measures a model's curve in processes that are warm; a context manager."""

    def __init__(self, work: Work, batches: Sequence[int]) -> None:
        job = work, images_of(work)
        self._batches = batches
        self._each, self._all = Limit([job], layouts()[-1], batches), Limit([job], layouts()[0], (1,))

    def __enter__(self) -> Self:
        self._each.__enter__()
        self._all.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._all.__exit__(*error)
        self._each.__exit__(*error)

    def measure(self, seconds: float) -> Curve:
        """Without overhead."""
        rates = {size: self._each.measure(size, seconds) for size in self._batches}
        points = tuple((size, time) for size, _, time in curve(rates, self._each.layout.processes))
        return Curve(points, lone=statistics.median(self._all.alone() for _ in range(TIMES)))


def mean(one: Curve, other: Curve, overhead: float) -> Curve:
    """Of two, with the CPU time of a request besides its batch."""
    pairs = zip(one.points, other.points, strict=True)
    points = tuple((size, (first + second) / 2) for (size, first), (_, second) in pairs)
    return Curve(points, overhead, (one.lone + other.lone) / 2)


def compare(work: Work, task: str, seconds: float, batch: int, overhead: float) -> tuple[list[str], float]:
    """The table, and by how much the worst prediction is off."""
    workers = layouts()[-1].processes
    batches = sorted({1, 2, batch})
    lines = [
        "| load | curve, lone, overhead (ms) | answers/s | p50, ms | p99, ms"
        " | predicted: answers/s | p50, ms | p99, ms | off |",
        "| --- |" + " --- |" * 8,
    ]
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="lynceus-predicted-") as folder, Curves(work, batches) as curves:
        file = Path(folder) / "slo.toml"
        file.write_text(PROFILE.format(task=task), encoding="utf-8")
        slo = read_slo(file)
        settings = {"LYNCEUS_MODELS": ",".join(work.models), "LYNCEUS_MAX_BATCH": str(batch)}
        with Server(settings) as server:
            warm = Opened(file, "steady", WARM, workers * curves.measure(SECONDS).rate(batch) / 2)
            spent = cpu_of_children()
            warmed = run(warm, slo, server.address, "", {})
            spent = (cpu_of_children() - spent) / len(warmed.requests)
            for seed, level in enumerate(LEVELS, 2):
                before = replace(curves.measure(SECONDS), overhead=overhead + spent)
                rate, spent = level * workers * before.rate(batch), cpu_of_children()
                record = run(Opened(file, "steady", seconds, rate, seed), slo, server.address, "", {})
                spent = (cpu_of_children() - spent) / len(record.requests)
                known = mean(before, curves.measure(SECONDS), overhead + spent)
                steps = ((seconds, rate),)
                due = tuple(departures(steps, gaps(slo.arrivals, seed)))
                plan = Plan(known, steps, recorded=due, workers=workers, max_batch=batch, seed=seed)
                real, ours = measured(record, seconds), predicted(plan)
                off = ours.off(real)
                worst = max(worst, off)
                inputs = ", ".join(f"{size}:{1000 * time:.1f}" for size, time in known.points)
                inputs += f", {1000 * known.lone:.1f}, {1000 * known.overhead:.1f}"
                lines.append(f"| {100 * level:.0f}% | {inputs} | {real} | {ours} | {100 * off:.0f}% |")
                errors = sum(request.outcome == ERROR for request in record.requests)
                print(lines[-1], f"{errors} errors;", lateness(record), file=sys.stderr, flush=True)
    return lines, worst


def main() -> int:
    """Prints the table and the verdict."""
    parser = command.parser(__doc__)
    parser.add_argument("--task", choices=sorted(TASKS), default="detect")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each level")
    parser.add_argument("--batch", type=int, default=1, help="LYNCEUS_MAX_BATCH")
    parser.add_argument("--overhead", type=float, default=0.7, help="milliseconds of a request in the server")
    parser.add_argument("--within", type=float, default=0.2)
    options = parser.parse_args()
    work = TASKS[options.task]
    lines, worst = compare(work, options.task, options.seconds, options.batch, options.overhead / 1000)
    print("\n".join(lines))
    reasons = [f"a prediction is {100 * worst:.0f}% off"] if worst > options.within else []
    print(sentence(reasons))
    return int(bool(reasons))


if __name__ == "__main__":
    sys.exit(main())
