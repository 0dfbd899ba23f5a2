"""Does the service stay as it was? An hour at 60% of what it can do, an overload of 200%, and 60% again.

    python -m loadtests.soak --minutes 60 --overload 3 --after 5

The mix is that of `slo.toml`; an open load of Poisson arrivals, every answer checked. What the service can do
is measured first: right answers a second where more is asked for. `--share` is for a machine that has other
work meanwhile. Judged, and exits 1 with the reasons in a line:

- no answer but a right one or a refusal (429), and hardly a refusal at 60%; no worker ends;
- at 200% as many right answers as 0.9 of capacity; the p99 of those, from their sending, within the bound of
  a wait (`LYNCEUS_MAX_WAIT_SECONDS`) and twice the time that the batches of its models then take;
- memory, open files and threads do not grow: the slope over the first part, per 10,000 requests, and the
  level after the overload;
- latencies after the overload as before.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from loadtests import command
from loadtests.asks import work_of
from loadtests.opened import Opened, run
from loadtests.record import ERROR, OK, SHED, Pace, Record, ceiling_of, percentile
from loadtests.reference import Reference, every
from loadtests.scrape import batch_seconds
from loadtests.server import Server
from loadtests.verdict import SLO, Slo, lateness, read_slo, sentence

LOOK = 2.0  # seconds between two looks at the processes
WAIT = 2.0  # seconds: the default of LYNCEUS_MAX_WAIT_SECONDS
GOODPUT = 0.9  # of capacity
MEGABYTES = 20.0  # per 10,000 requests
SAME = 1.5  # times as long as before, at most
FULL = 0.1  # refused where the capacity is measured
REFUSED = 0.01  # of the requests at 60%


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server's processes had at a moment: memory (PSS, bytes), open files, threads; their ids."""

    time: float
    memory: float
    files: float
    threads: float
    processes: frozenset[int] = frozenset()


def usage_of(server: Server) -> Usage:
    """What a server's processes have now."""
    memory = files = threads = 0
    processes = server.processes()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            memory += process.memory_full_info().pss
            files += process.num_fds()
            threads += process.num_threads()
    return Usage(time.time(), memory, files, threads, frozenset(process.pid for process in processes))


def slope(usages: Sequence[Usage], name: str) -> float:
    """Growth per second, by least squares; 0 of less than three."""
    if len(usages) < 3:
        return 0.0
    mean_time = sum(usage.time for usage in usages) / len(usages)
    mean = sum(float(getattr(usage, name)) for usage in usages) / len(usages)
    spread = sum((usage.time - mean_time) ** 2 for usage in usages)
    return float(sum((one.time - mean_time) * (getattr(one, name) - mean) for one in usages) / spread)


@dataclass(frozen=True, slots=True)
class Part:
    """One level of load."""

    name: str
    seconds: float
    offered: float
    record: Record
    usages: Sequence[Usage]

    def count(self, outcome: str) -> int:
        return sum(1 for each in self.record.requests if each.outcome == outcome)

    def latency(self, task: str, percent: float, *, sent: bool = False) -> float:
        """Of right answers, from when they were due, or from when they were sent."""
        right = [r for r in self.record.requests if r.task == task and r.outcome == OK]
        return percentile([r.seconds - (r.late if sent else 0.0) for r in right], percent)

    @property
    def goodput(self) -> float:
        """Right answers a second."""
        return self.count(OK) / self.seconds


def judge(parts: Sequence[Part], capacity: float, paces: dict[str, Pace]) -> list[str]:
    """What is wrong; nothing if all is well."""
    before, over, after = parts
    reasons = []
    for part in parts:
        errors = Counter(r.detail[:60] for r in part.record.requests if r.outcome == ERROR)
        reasons += [f"{part.name}: {count} x {detail}" for detail, count in errors.most_common(3)]
    for part in (before, after):
        if part.count(SHED) > REFUSED * len(part.record.requests):
            reasons.append(f"{part.name}: {part.count(SHED)} refused")
    if over.goodput < GOODPUT * capacity:
        reasons.append(f"{over.name}: {over.goodput:.1f} right answers/s of {capacity:.1f}")
    batches = batch_seconds(over.record.samples)
    for task in paces:
        # the models of a worker share its core: a batch takes longer than alone
        bound = WAIT + 2 * sum(batches.get(model, 0.0) for model in work_of(task).models)
        # from their sending: the generator has no cores of its own, and no server answers before that
        if (p99 := over.latency(task, 99, sent=True)) > bound:
            reasons.append(f"{over.name}: {task} has a p99 of {p99:.2f} s, bound {bound:.2f} s")
        if (now := after.latency(task, 50)) > SAME * (then := before.latency(task, 50)):
            reasons.append(f"{after.name}: {task} has a p50 of {now:.3f} s, {then:.3f} before")
    if len({usage.processes for part in parts for usage in part.usages}) > 1:
        reasons.append("a process of the server has ended or begun")
    rate = len(before.record.requests) / before.seconds
    growth = slope(before.usages[len(before.usages) // 4 :], "memory") / rate * 1e4 / 2**20
    if growth > MEGABYTES:
        reasons.append(f"memory grows by {growth:.1f} MB per 10,000 requests")
    for name in ("files", "threads"):
        first, last = (_level(part, name) for part in (before, after))
        if last > 1.2 * first + 10:
            reasons.append(f"{name}: {last:.0f} after, {first:.0f} before")
    return reasons


def table(parts: Sequence[Part], paces: dict[str, Pace]) -> str:
    """Markdown."""
    rows = {
        "seconds, requests/s offered": [f"{part.seconds:.0f}, {part.offered:.1f}" for part in parts],
        "right, refused, anything else": [
            f"{part.count(OK)}, {part.count(SHED)}, {part.count(ERROR)}" for part in parts
        ],
        "right answers/s": [f"{part.goodput:.1f}" for part in parts],
        "memory (PSS), MB": [f"{_level(part, 'memory') / 2**20:.0f}" for part in parts],
        "growth, MB per 10,000 requests": [
            f"{slope(part.usages, 'memory') * 1e4 * part.seconds / len(part.record.requests) / 2**20:+.1f}"
            for part in parts
        ],
        "open files, threads": [
            f"{_level(part, 'files'):.0f}, {_level(part, 'threads'):.0f}" for part in parts
        ],
        "their growth an hour": [
            f"{3600 * slope(part.usages, 'files'):+.1f}, {3600 * slope(part.usages, 'threads'):+.1f}"
            for part in parts
        ],
    }
    for task in paces:
        rows[f"{task}: p50 / p99, ms"] = [
            f"{1000 * part.latency(task, 50):.0f} / {1000 * part.latency(task, 99):.0f}" for part in parts
        ]
    head = command.head("", *(part.name for part in parts))
    return "\n".join([head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def _level(part: Part, name: str) -> float:
    """The median of the last quarter."""
    values = sorted(float(getattr(usage, name)) for usage in part.usages[3 * len(part.usages) // 4 :])
    return values[len(values) // 2] if values else 0.0


def soak(
    slo: Slo, file: Path, seconds: Sequence[float], calibration: float, share: float
) -> tuple[list[Part], float, dict[str, Pace]]:
    """The three parts, the capacity in right answers a second, and each task's pace."""
    models = dict.fromkeys(model for task in slo.mix for model in work_of(task).models)
    with tempfile.TemporaryDirectory(prefix="lynceus-soak-") as state:
        settings = {
            "LYNCEUS_MODELS": ",".join(models),
            "LYNCEUS_DRAIN_SECONDS": "0",
            "LYNCEUS_STATE_DIR": state,
        }
        with Reference(list(slo.mix), 1.5) as reference:
            paces = dict(reference.measure())
        with Server(settings) as server:
            seen: list[Usage] = []

            def part(name: str, seconds: float, rate: float, seed: int) -> Part:
                began = time.time()
                load = Opened(file, "steady", seconds, rate / slo.load, seed)
                record = run(load, slo, server.address, server.grpc_address, paces)
                done = Part(name, seconds, rate, record, [usage for usage in seen if usage.time >= began])
                print(table([done], paces), lateness(record), sep="\n\n", file=sys.stderr, flush=True)
                return done

            with every(LOOK, lambda: seen.append(usage_of(server))):
                rate, full = ceiling_of(slo.mix, paces), False
                while not full:  # other work may have slowed the reference
                    rate *= 1.4
                    asked = part("capacity", calibration, rate, 1)
                    full = asked.count(SHED) > FULL * len(asked.record.requests)
                    time.sleep(2 * WAIT)
                capacity = asked.goodput
                usual = f"{100 * share:.0f}%"
                plan = ((usual, share), ("200%", 2.0), (f"{usual} after", share))
                parts = [
                    part(name, length, level * capacity, seed)
                    for seed, ((name, level), length) in enumerate(zip(plan, seconds, strict=True), 2)
                ]
    return parts, capacity, paces


def main() -> int:
    """Prints the table and the sentence."""
    parser = command.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="at 60%%")
    parser.add_argument("--overload", type=float, default=3.0, help="minutes at 200%%")
    parser.add_argument("--after", type=float, default=5.0, help="minutes at 60%% again")
    parser.add_argument("--share", type=float, default=0.6, help="of the capacity, in place of 60%%")
    parser.add_argument("--calibration", type=float, default=20.0, help="seconds that measure the capacity")
    parser.add_argument("--slo", type=Path, default=SLO)
    options = parser.parse_args()
    slo = read_slo(options.slo)
    minutes = (options.minutes, options.overload, options.after)
    parts, capacity, paces = soak(
        slo, options.slo.resolve(), [60 * one for one in minutes], options.calibration, options.share
    )
    reasons = judge(parts, capacity, paces)
    print(f"capacity: {capacity:.1f} right answers/s", table(parts, paces), sentence(reasons), sep="\n\n")
    return int(bool(reasons))


if __name__ == "__main__":
    sys.exit(main())
