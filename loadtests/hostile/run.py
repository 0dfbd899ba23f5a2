"""Sends a case alone, alone with a deadline, and several at once beside neighbours; measures and judges."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from loadtests.command import head
from loadtests.hostile.case import Case
from loadtests.hostile.neighbours import Neighbours, Waits
from loadtests.hostile.send import Grpc, Http, Outcome, Target
from loadtests.hostile.watch import Watch
from loadtests.server import ROOT

RESOURCES = ROOT / "docker" / "kubernetes" / "overlays" / "cpu" / "resources.yaml"
CPU, AFTER, MODEL_WAIT, HEALTH_WAIT = 1.5, 1.5, 2.0, 0.25
"""Bars in seconds: CPU of a request; CPU after its answer or its end; waits of others."""
ANSWER = 2**20
"""Most bytes of an answer to what is refused."""
COSTLY = 0.4
"""CPU seconds from which on a case is sent with a deadline, and disconnected, as well."""
DEADLINE = 0.5
QUIET = 0.1
"""Cores that an idle server takes at most."""
GRACE = 20.0
"""Seconds that what goes on after the answer is waited for."""
SETTLED = 60.0
"""Seconds that a server is waited for until it is idle."""
REFUSED = re.compile(r"5(?!03|04)\d\d|UNKNOWN|INTERNAL|DATA_LOSS|RemoteDisconnected")
"""Statuses that no request may lead to."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a case did.

    Attributes:
        case: its name.
        sent: bytes.
        status: of the one that was alone; `statuses` those of several at once.
        cpu: seconds, of the one that was alone, including what went on after its answer.
        after: seconds of CPU after the answer: alone, with a deadline, and after a disconnect; the largest.
        peak: bytes of all processes (PSS), with several at once.
        rise: sum of the workers' peaks over their sizes before, bytes; with several at once.
        alone_rise: the same of the one that was alone.
        model_wait, health_wait: longest waits of the neighbours in seconds; None: not asked.
        died: workers that ended.
        failures: the bars that it missed.
    """

    case: str
    sent: int
    status: str = ""
    statuses: str = ""
    cpu: float = 0.0
    after: float = 0.0
    peak: int = 0
    rise: int = 0
    alone_rise: int = 0
    model_wait: float | None = None
    health_wait: float | None = None
    died: int = 0
    failures: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        return asdict(self)


class Runner:
    """Measures cases on a running server.

    Args:
        watch: of the server's processes.
        target: where it listens.
        neighbours: other clients meanwhile; None: none.
        limit: bytes that the pod may have.
        judge_waits: whether the neighbours' waits are judged; not where other load disturbs them.
        quick: without deadlines and disconnects.
        slack: what the bars of CPU seconds are multiplied by.
    """

    def __init__(
        self,
        watch: Watch,
        target: Target,
        neighbours: Neighbours | None,
        *,
        limit: int,
        judge_waits: bool,
        quick: bool,
        slack: float = 1.0,
    ) -> None:
        self._watch = watch
        self._target = target
        self._neighbours = neighbours
        self._limit = limit
        self._judge_waits = judge_waits
        self._quick = quick
        self._cpu, self._after = CPU * slack, AFTER * slack
        self._idle = 0.0

    def settle(self) -> None:
        """Measures what the idle server takes, cores; waits until that is next to nothing."""
        end = time.monotonic() + SETTLED
        while True:
            self._watch.until_quiet(0.05, 30.0)
            before = self._watch.cpu()
            time.sleep(1.0)
            self._idle = self._watch.cpu() - before
            if self._idle < QUIET or time.monotonic() > end:
                self._idle = min(self._idle, QUIET)
                return

    def run(self, case: Case, *, several: bool = True) -> Row:
        """All rounds of a case."""
        row = self._alone(case)
        if row.cpu > self._cpu * case.requests and not row.died:
            # Memory that a virtual machine never used before takes its host a second a gigabyte.
            row = min(row, self._alone(case), key=lambda row: (-row.died, row.cpu))
        if row.cpu > COSTLY and not self._quick and not row.died:
            row = replace(row, after=max(row.after, *self._left(case)))
        if several and not row.died:
            row = self._at_once(case, row)
        return replace(row, failures=self._failures(row, case.requests))

    def still_works(self) -> bool:
        """Whether the server is not done with what it was sent, long after it."""
        return not self._watch.is_quiet(self._idle)

    def _alone(self, case: Case) -> Row:
        size = case.send.size()  # made before the clock starts
        self._watch.reset()
        begin = time.monotonic()
        outcome = case.send(self._target)
        answered = self._watch.cpu()
        self._watch.until_quiet(self._idle, GRACE, 0.1 if self._quick else 0.25)
        usage = self._watch.usage()
        cpu = max(0.0, usage.cpu - self._idle * (time.monotonic() - begin))
        after = max(0.0, usage.cpu - answered)
        return Row(
            case.name,
            size,
            _shown(outcome),
            cpu=cpu,
            after=after,
            peak=usage.peak,
            alone_rise=usage.rise,
            died=usage.died,
        )

    def _left(self, case: Case) -> list[float]:
        """CPU seconds after a deadline of the request's own, and after a disconnect."""
        found = [0.0]
        if isinstance(case.send, Http | Grpc):
            for send, target in (
                (case.send.within(round(DEADLINE * 1000)), self._target),
                (case.send, replace(self._target, timeout=DEADLINE)),
            ):
                self._watch.reset()
                send(target)
                found.append(self._watch.until_quiet(self._idle, GRACE))
        return found

    def _at_once(self, case: Case, row: Row) -> Row:
        outcomes: list[Outcome] = []
        self._watch.reset()
        if self._neighbours is not None:
            self._neighbours.begin()
        threads = [
            threading.Thread(target=lambda: outcomes.append(case.send(self._target)))
            for _ in range(case.at_once)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        waits = Waits() if self._neighbours is None else self._neighbours.end()
        usage = self._watch.usage()
        self._watch.until_quiet(self._idle, GRACE, 0.1 if self._quick else 0.25)
        counted = Counter(map(_shown, outcomes))
        return replace(
            row,
            statuses=" ".join(f"{count}x{status}" for status, count in sorted(counted.items())),
            peak=max(row.peak, usage.peak),
            rise=usage.rise,
            died=row.died + usage.died,
            model_wait=waits.longest.get("model"),
            health_wait=waits.longest.get("health"),
        )

    def _failures(self, row: Row, requests: int) -> list[str]:
        found = []
        if row.cpu > self._cpu * requests:
            found.append(f"{row.cpu:.1f} s of CPU")
        if row.after > self._after:
            found.append(f"{row.after:.1f} s of CPU afterwards")
        if row.peak > self._limit:
            found.append(f"{row.peak / 2**30:.1f} GiB in all")
        if row.died:
            found.append(f"{row.died} workers died")
        if REFUSED.search(row.status) or REFUSED.search(row.statuses):
            found.append(f"status {row.status} {row.statuses}")
        if self._judge_waits and (row.model_wait or 0) > MODEL_WAIT:
            found.append(f"the model's neighbour waited {row.model_wait:.1f} s")
        if self._judge_waits and (row.health_wait or 0) > HEALTH_WAIT:
            found.append(f"health waited {row.health_wait:.2f} s")
        return found


def pod_limit() -> int:
    """The pod's memory limit in bytes, from the overlay for CPUs.

    Raises:
        ValueError: there is none in it.
    """
    text = RESOURCES.read_text(encoding="utf-8")
    found = re.search(r"limits:(?:\s+[\w./-]+: [^\n]+\n)*?\s+memory: (\d+)Gi", text)
    if found is None:
        raise ValueError(f"{RESOURCES} states no memory limit")
    return int(found[1]) * 2**30


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    costs = ("CPU s", "after s", "memory alone", "at once", "peak")
    return "\n".join((head("case", "sent", *costs, "model", "health", "status"), *map(line, rows)))


def line(row: Row) -> str:
    """A row in Markdown."""
    waits = [f"{wait:.2f} s" if wait is not None else "" for wait in (row.model_wait, row.health_wait)]
    cells = [
        row.case,
        _bytes(row.sent),
        f"{row.cpu:.2f}",
        f"{row.after:.2f}",
        f"+{_bytes(row.alone_rise)}",
        f"+{_bytes(row.rise)}",
        _bytes(row.peak),
        *waits,
        row.status if not row.statuses else f"{row.status}; {row.statuses}",
    ]
    return f"| {' | '.join(cells)} |" + (f" **{'; '.join(row.failures)}**" if row.failures else "")


def _shown(outcome: Outcome) -> str:
    refused = not outcome.status.startswith(("2", "OK"))
    long = refused and outcome.answered > ANSWER
    return f"{outcome.status}({_bytes(outcome.answered)})" if long else outcome.status


def _bytes(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    for unit, size in (("kB", 1e3), ("MB", 1e6)):
        if count < 1000 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e9:.3g} GB"
