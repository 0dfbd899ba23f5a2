"""Twice what the machine can do, for half a minute: does the service keep its limits, and recover?

    python -m loadtests.overload --task classify

Ten seconds at the ceiling, thirty at twice of it, ten at the ceiling. Judged, and exits 1 with the reason in
one line: no answer but a right one or a refusal (429); every refusal with a `Retry-After` that fits the
wait; accepted requests within the bound; in the burst 0.9 of the right answers that a second of CPU time gave
before it; from 2 s after it as many right answers a second as before.

By CPU time, since the generator of the burst takes twice its share of the machine, and other work some.

The bound of an accepted request's p99: the longest wait, and twice the time of a batch at the rate that the
service had during the burst: LYNCEUS_MAX_WAIT_SECONDS + 2 x workers x slots x max_batch / rate.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from loadtests import command
from loadtests.asks import ask, work_of
from loadtests.opened import Opened, run
from loadtests.record import ERROR, OK, SHED, Pace, Record, percentile
from loadtests.reference import Reference, accelerated, every
from loadtests.server import Server
from loadtests.shapes import SHAPES
from loadtests.tasks import TASKS, check_answer
from loadtests.verdict import lateness, read_slo, sentence

BACK = 2.0  # seconds after the burst until throughput is full again
LATE = 0.5  # seconds
SAME = 0.85  # of the throughput before
WITHIN = 0.9  # of the right answers a second of CPU time
PROFILE = """[profile]
load = 1.0
arrivals = "poisson"
settle_seconds = 0
[mix]
{task} = 1
[limits]
p50 = 1
p99 = 1
error_rate = 0
shed_rate = 0
"""


@dataclass(frozen=True, slots=True)
class Burst:
    """The outcome.

    Attributes:
        record: of three steps, the second of which is the burst.
        wait: seconds that a request may wait for its model.
        device: images that are on the device, of all workers.
        computed: seconds of CPU time that the server had taken at times (seconds since 1970).
    """

    record: Record
    wait: float
    device: int
    computed: Sequence[tuple[float, float]]

    @property
    def before(self) -> float:
        """Right answers per second in the second half of the first step."""
        first = self.record.steps[0][0]
        return self._rate(first / 2, first)

    @property
    def during(self) -> float:
        """Right answers per second of the burst."""
        first, second = (seconds for seconds, _ in self.record.steps[:2])
        return self._rate(first, first + second)

    @property
    def worth(self) -> tuple[float, float]:
        """Right answers per second of CPU time, in the second half of the first step and in the burst."""
        first, second = (seconds for seconds, _ in self.record.steps[:2])
        spans = (first / 2, first), (first, first + second)
        before, during = (self._rate(*span) / (self._load(*span) or 1.0) for span in spans)
        return before, during

    @property
    def after(self) -> float:
        """Right answers per second from `BACK` seconds after the burst."""
        first, second, third = (seconds for seconds, _ in self.record.steps)
        return self._rate(first + second + BACK, first + second + third)

    @property
    def bound(self) -> float:
        """The most that an accepted request's p99 may be, in seconds."""
        return self.wait + 2 * self.device / self.during if self.during else 0.0

    def _load(self, start: float, end: float) -> float:
        """Cores that the server used."""
        start, end = self.record.began + start, self.record.began + end
        seen = [one for one in self.computed if start <= one[0] <= end]
        if len(seen) < 2:
            return 0.0
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def _rate(self, start: float, end: float) -> float:
        start, end = self.record.began + start, self.record.began + end
        answered = (each.due + each.seconds for each in self.record.requests if each.outcome == OK)
        return sum(start <= time < end for time in answered) / (end - start)


def judge(burst: Burst) -> list[str]:
    """What is wrong, in words."""
    requests = burst.record.requests
    refused = [each for each in requests if each.outcome == SHED]
    accepted = [each.seconds for each in requests if each.outcome == OK]
    errors = Counter(each.detail[:80].replace("\n", " ") for each in requests if each.outcome == ERROR)
    reasons = [f"{count} x {detail}" for detail, count in errors.most_common(3)]
    if not burst.during or not burst.before:
        return [*reasons, "nothing was answered right"]
    if not refused:
        reasons.append("nothing was refused: this was no overload")
    longest = ceil(2 * burst.wait)  # estimated from the last batches' rate, at times half of the mean
    odd = [each.retry_after for each in refused if not 1 <= (each.retry_after or 0) <= longest]
    if odd:
        reasons.append(
            f"{len(odd)} refusals with a Retry-After that is not 1 to {longest} s, such as {odd[0]}"
        )
    before, during = burst.worth
    if during < WITHIN * before:
        reasons.append(f"only {during:.1f} answers/s of CPU time in the burst, {before:.1f} before")
    p99 = percentile(accepted, 99)
    if p99 > burst.bound:
        reasons.append(f"accepted requests have a p99 of {p99:.2f} s, bound {burst.bound:.2f} s")
    if burst.after < SAME * burst.before:
        reasons.append(
            f"{BACK:g} s after: {burst.after:.1f} answers/s, {burst.before:.1f} before "
            f"({100 * burst.after / burst.before:.0f}%, at least {100 * SAME:.0f}%)"
        )
    return reasons


def table(burst: Burst) -> str:
    """Markdown."""
    record = burst.record
    counts = Counter(each.outcome for each in record.requests)
    accepted = [each.seconds for each in record.requests if each.outcome == OK]
    waits = sorted(each.retry_after for each in record.requests if each.retry_after is not None)
    rows = {
        "ceiling, requests/s": f"{record.ceiling:.1f}",
        "right, refused, anything else": f"{counts[OK]}, {counts[SHED]}, {counts[ERROR]}",
        "right answers/s before, during, after": f"{burst.before:.1f}, {burst.during:.1f}, {burst.after:.1f}",
        "per second of its CPU time before, during": "{:.1f}, {:.1f}".format(*burst.worth),
        "refused late (after 0.5 s)": str(
            sum(r.outcome == SHED and r.seconds > LATE for r in record.requests)
        ),
        "Retry-After, s": f"{waits[0]:g} to {waits[-1]:g}" if waits else "none",
        "accepted: p50, p99, bound, s": f"{percentile(accepted, 50):.2f}, {percentile(accepted, 99):.2f}, "
        f"{burst.bound:.2f}",
    }
    return "\n".join(
        [command.head("what", "seen"), *(f"| {name} | {value} |" for name, value in rows.items())]
    )


def measured(task: str, seconds: float, ceiling: float | None = None) -> Burst:
    """The ceiling, if it is not given, and the burst, on a server of one's own whose batches are known."""
    work = work_of(task)
    defaults = {
        "LYNCEUS_WORKERS": 1 if accelerated() else len(os.sched_getaffinity(0)),
        "LYNCEUS_MAX_BATCH": 32 if accelerated() else 2,
        "LYNCEUS_SLOTS": 1,
    }
    chosen = {name: int(os.environ.get(name) or value) for name, value in defaults.items()}
    wait = float(os.environ.get("LYNCEUS_MAX_WAIT_SECONDS") or 2.0)
    workers, batch, slots = chosen.values()
    settings = {name: str(value) for name, value in chosen.items()}
    settings |= {"LYNCEUS_MODELS": ",".join(work.models), "LYNCEUS_DRAIN_SECONDS": "0"}
    with tempfile.TemporaryDirectory(prefix="lynceus-overload-") as folder, Server(settings) as server:
        file, body = Path(folder) / "slo.toml", Path(folder) / "body"
        file.write_text(PROFILE.format(task=task), encoding="utf-8")
        body.write_bytes(ask(task).body)
        check_answer(server.address, work, body)
        if ceiling is None:
            with Reference([task], 3.0) as reference:
                paces = reference.measure()
        else:
            paces = {task: Pace(ceiling, 1 / ceiling)}
        load = Opened(file, "overload", seconds, paces[task].rate)
        computed: list[tuple[float, float]] = []
        with every(0.5, lambda: computed.append((time.time(), server.cpu_seconds()))):
            record = run(load, read_slo(file), server.address, server.grpc_address, paces)
    return Burst(record, wait, workers * slots * batch, computed)


def main() -> int:
    """Prints the table and the sentence."""
    parser = command.parser(__doc__)
    parser.add_argument("--task", choices=sorted(TASKS), default="classify")
    parser.add_argument(
        "--seconds", type=float, default=SHAPES["overload"].seconds, help="3/5 of it the burst"
    )
    parser.add_argument(
        "--ceiling",
        type=float,
        help="requests per second; default: as measured in process, with nothing else",
    )
    options = parser.parse_args()
    burst = measured(options.task, options.seconds, options.ceiling)
    reasons = judge(burst)
    print(table(burst), lateness(burst.record), sentence(reasons), sep="\n\n")
    return int(bool(reasons))


if __name__ == "__main__":
    sys.exit(main())
