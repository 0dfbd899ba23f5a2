"""The comparison of two checkouts: ratios are of rounds beside each other."""

from __future__ import annotations

from loadtests.loadgen import Load
from loadtests.versus import row


def load(rps: float, p99: float = 10.0, errors: int = 0) -> Load:
    return Load(0, 0, {"429": errors}, 0, 0, 1.0, rps, 1.0, 1.0, p99, 1.0, 0.0, {})


def test_the_median_ratio_is_of_pairs_and_not_of_medians() -> None:
    pairs = [[load(100), load(200)], [load(50), load(125, errors=3)], [load(80), load(240, p99=40)]]
    told = row("classify", "16", pairs)
    assert told.startswith("| classify | 16 | 80.0 | 200.0 | **2.50** (2.00..3.00) |")
    assert told.endswith("| 10 / 10 | 3 |")
