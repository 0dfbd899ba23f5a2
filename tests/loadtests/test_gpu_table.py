"""`loadtests.gpu`: the table's ratios and what a rate counts; the rest of it needs a device and a server."""

from __future__ import annotations

import threading

from loadtests.gpu import Row, rate_of, table


def test_the_table_has_each_share_of_each_limit() -> None:
    text = table([Row("classify", 8, model=2000.0, process=500.0, served=400.0, errors=1)])
    assert text.splitlines()[-1] == "| classify | 8 | 2000 | 500 | 400 | 80% | 20% | 1 |"
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_a_rate_counts_the_calls_of_all_threads() -> None:
    calls: list[int] = []
    both = threading.Barrier(2, timeout=60)

    def work(item: int) -> None:
        calls.append(item)
        if len(calls) <= 2:
            both.wait()  # two threads are in here at once

    rate = rate_of(work, 7, threads=2, seconds=0.05)
    assert set(calls) == {7}
    assert len(calls) >= 2
    assert 0 < rate <= len(calls) / 0.05
