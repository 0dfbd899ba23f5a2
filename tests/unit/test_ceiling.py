"""The arithmetic and the tables of the load tools; their measurements need a machine of their own."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from loadtests.ceiling import Round, median_round, table
from loadtests.limit import layouts
from loadtests.loadgen import Load, arguments
from loadtests.server import free_port, status
from loadtests.tasks import pictures_in

LOAD = Load(200, 199, {"429": 1}, 0, 9000, 2.0, 99.5, 10.0, 20.0, 30.0, 40.0, 0.02, {1: 150, 4: 50})


def rounds(*ratios: float, connections: int = 16) -> list[Round]:
    return [Round(connections, dataclasses.replace(LOAD, rps=100 * ratio), 100.0) for ratio in ratios]


def test_the_median_round_is_one_that_was_measured() -> None:
    assert median_round(rounds(0.9, 0.5, 0.7)).ratio == pytest.approx(0.7)
    assert median_round(rounds(0.9, 0.5)).ratio == pytest.approx(0.5)


def test_the_table_has_a_row_for_each_number_of_connections_with_the_errors_of_all_rounds() -> None:
    lines = table(rounds(0.9, 0.5, 0.7) + rounds(0.25, connections=1)).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(
        "| 1 | 25.0 | 100.0 | 25% (25..25) | 10.0 | 30.0 | 429: 1 | 1: 75%, 4: 25% | 1.0%"
    )
    assert lines[3].startswith("| 16 | 70.0 | 100.0 | 70% (50..90) | 10.0 | 30.0 | 429: 3 |")


def test_the_mean_batch_weighs_answers() -> None:
    assert LOAD.mean_batch == pytest.approx((150 * 1 + 50 * 4) / 200)
    assert dataclasses.replace(LOAD, batch_sizes={}).mean_batch == 0


def test_layouts_use_every_core() -> None:
    for layout in layouts():
        assert layout.processes * layout.threads == len(os.sched_getaffinity(0))


def test_arguments_of_the_generator() -> None:
    given = arguments("127.0.0.1:1", "/x", [Path("a")], connections=3, requests=7, headers={"A": "b"})
    options = " ".join(given)
    assert options == "-c 3 -s 10.0 -t 30.0 -T image/jpeg -n 7 -H A: b 127.0.0.1:1 /x a"
    assert "A: b" in given, "a header is one argument"


def test_no_pictures_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--pictures"):
        pictures_in(tmp_path)


def test_a_port_where_nobody_listens_has_no_status() -> None:
    assert status(f"127.0.0.1:{free_port()}", "/readyz") is None
