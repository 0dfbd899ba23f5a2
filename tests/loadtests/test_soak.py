"""What a soak is judged by."""

from __future__ import annotations

import pytest

from loadtests.record import ERROR, OK, SHED, Pace, Record, Request, Sample
from loadtests.soak import MEGABYTES, Part, Usage, judge, slope, table

PACES = {"classify": Pace(100.0, 0.02)}


def usages(growth: float = 0.0, files: float = 40.0, worker: int = 2) -> list[Usage]:
    """Memory that grows by so many bytes a second."""
    processes = frozenset({1, worker})
    return [Usage(float(at), 1e9 + growth * at, files, 44.0, processes) for at in range(0, 100, 2)]


def part(name: str, outcomes: dict[str, int], seconds: float = 0.05, seen: list[Usage] | None = None) -> Part:
    requests = [
        Request("classify", 0.0, 0.0, seconds, outcome, "why" if outcome == ERROR else "")
        for outcome, count in outcomes.items()
        for _ in range(count)
    ]
    batches = 'lynceus_batches_total{model="efficientnet-lite0",size="1"}'
    took = 'lynceus_batch_seconds_total{model="efficientnet-lite0",size="1",stage="compute"}'
    samples = [Sample(at, {batches: count, took: count * 0.2}) for at, count in ((0.0, 10.0), (9.0, 110.0))]
    record = Record(0.0, [(100.0, 1.0)], 100.0, PACES, requests, samples)
    return Part(name, 100.0, 60.0, record, usages() if seen is None else seen)


def test_growth_is_a_slope() -> None:
    assert slope(usages(growth=1000.0), "memory") == pytest.approx(1000.0)
    assert slope(usages(), "threads") == 0
    assert slope(usages()[:2], "memory") == 0


GOOD = part("60%", {OK: 6000})
BURST = part("200%", {OK: 9500, SHED: 10_000}, seconds=1.8)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((GOOD, BURST, GOOD), ""),
        ((GOOD, part("200%", {OK: 8000, SHED: 12_000}), GOOD), "80.0 right answers/s of 100.0"),
        ((GOOD, part("200%", {OK: 9500, SHED: 1}, seconds=2.5), GOOD), "a p99 of 2.50 s"),
        ((GOOD, part("200%", {OK: 9500, ERROR: 2}), GOOD), "2 x why"),
        ((part("60%", {OK: 6000, SHED: 100}), BURST, GOOD), "100 refused"),
        ((GOOD, BURST, part("60% after", {OK: 6000}, seconds=0.1)), "a p50 of 0.100 s, 0.050 before"),
        ((GOOD, BURST, part("60% after", {OK: 6000}, seen=usages(worker=3))), "has ended or begun"),
        ((GOOD, BURST, part("60% after", {OK: 6000}, seen=usages(files=70.0))), "files: 70 after"),
        (
            (part("60%", {OK: 6000}, seen=usages(growth=2 * MEGABYTES * 2**20 * 60 / 1e4)), BURST, GOOD),
            "memory grows by 40.0 MB",
        ),
    ],
)
def test_each_bar(parts: tuple[Part, Part, Part], said: str) -> None:
    reasons = judge(parts, 100.0, PACES)
    assert (said in reasons[0] and len(reasons) == 1) if said else not reasons
    assert "| classify: p50 / p99, ms |" in table(parts, PACES)
