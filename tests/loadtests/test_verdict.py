"""The verdict on recorded runs: what passes, what fails, and that the reason is one line that names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from loadtests import verdict
from loadtests.asks import work_of
from loadtests.record import SHED, Pace, Record, Request, ceiling_of, percentile
from loadtests.reference import refreshed
from loadtests.verdict import judge, lateness, read_slo, rows, sentence, table
from tests.loadtests.runs import BEGAN, PACES, SLO, failed, honest, requests


def test_an_honest_run_passes() -> None:
    assert judge(honest(), SLO) == []
    assert sentence([]) == "PASSED: every limit was kept"


def test_a_model_three_times_slower_fails_for_its_latency() -> None:
    slow = honest(requests=[*requests("classify", 1500, 0.060), *requests("verify", 500, 0.150)])
    (reason,) = judge(slow, SLO)
    assert reason == "classify: p50 60 ms, limit 40 ms (4 times 10.0 ms in process)"
    assert sentence([reason]) == f"FAILED: {reason}"


def test_a_slow_tail_fails_for_p99_and_not_for_p50() -> None:
    tail = [*requests("verify", 490, 0.150), *requests("verify", 10, 1.5)]
    (reason,) = judge(honest(requests=[*requests("classify", 1500, 0.020), *tail]), SLO)
    assert reason.startswith("verify: p99 1500 ms, limit 1000 ms")


def test_one_error_in_a_hundred_fails_and_says_which_in_one_line() -> None:
    (reason,) = judge(failed(honest(), "classify", 100), SLO)
    assert reason == "classify: 15 of 1500 answers are errors (1%, limit 0.1%): status 500: internal"
    broken = dataclasses.replace(honest(), requests=[*honest().requests])
    odd = [dataclasses.replace(each, outcome="error", detail="a\ntrace") for each in broken.requests]
    assert all("\n" not in reason for reason in judge(dataclasses.replace(broken, requests=odd), SLO))


def test_an_error_within_the_limit_passes() -> None:
    assert judge(failed(honest(), "classify", 1500), SLO) == []  # 1 of 1500 is less than 0.1%


def test_refusals_have_a_limit_of_their_own() -> None:
    assert judge(failed(honest(), "verify", 100, SHED), SLO) == []
    (reason,) = judge(failed(honest(), "verify", 50, SHED), SLO)
    assert reason == "verify: 10 of 500 requests were refused (2%, limit 1%)"


def test_a_task_that_was_never_asked_for_fails() -> None:
    assert judge(honest(requests=requests("classify", 1500, 0.020)), SLO) == ["verify: not one request"]


def test_limits_move_with_the_machine() -> None:
    slower = {task: Pace(pace.rate / 3, 3 * pace.seconds) for task, pace in PACES.items()}
    run = honest(requests=[*requests("classify", 1500, 0.060), *requests("verify", 500, 0.450)])
    assert judge(dataclasses.replace(run, paces=slower), SLO) == []


def spiked(seconds: float, outcome: str = "ok") -> Record:
    """20 s calm, 10 s of a burst, 30 s calm; the burst's requests, and those until 4 s later, took long."""
    steps = [(20.0, 0.5), (10.0, 2.0), (30.0, 0.5)]
    burst = [Request("classify", BEGAN + 20 + tenth / 10, 0.0, seconds, outcome) for tenth in range(140)]
    return honest(steps=steps, requests=[*honest().requests, *burst])


def test_latencies_and_refusals_of_a_burst_and_shortly_after_are_not_judged() -> None:
    assert judge(spiked(9.0), SLO) == []
    assert judge(spiked(0.1, SHED), SLO) == []


def test_errors_are_judged_even_in_a_burst() -> None:
    (reason,) = judge(spiked(0.1, "error"), SLO)
    assert "140 of 1640 answers are errors" in reason


def test_a_service_that_does_not_recover_from_a_burst_fails() -> None:
    long_after = [Request("classify", BEGAN + 40, 0.0, 9.0, "ok")] * 200
    run = spiked(9.0)
    assert judge(dataclasses.replace(run, requests=[*run.requests, *long_after]), SLO)


def test_the_table_has_a_row_for_each_task() -> None:
    lines = table(honest(), SLO).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| classify | 1500 | 0 | 0 | 20 (40) | 20 (200) | 10.0 |"
    assert [row.task for row in rows(honest(), SLO)] == ["classify", "verify"]


def test_lateness_is_told() -> None:
    late = dataclasses.replace(honest().requests[0], late=0.5)
    told = lateness(honest(requests=[late, *honest().requests[1:]]))
    assert told.startswith("1 of 2000 requests left more than 10 ms late (p99 0 ms)")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    honest().write(tmp_path / "folder" / "record.json")
    assert Record.read(tmp_path / "folder" / "record.json") == honest()


def test_the_ceiling_of_a_mix_weighs_time_and_not_rates() -> None:
    # in four requests: three of 1/150 s and one of 1/20 s
    assert ceiling_of(SLO.mix, PACES) == pytest.approx(4 / (3 / 150 + 1 / 20))
    assert ceiling_of({"classify": 7.0}, PACES) == pytest.approx(150)


def test_what_one_request_takes_is_the_median_while_the_run_lasts() -> None:
    before = {"a": Pace(100.0, 0.01), "b": Pace(10.0, 0.1)}
    assert refreshed(before, {"a": [0.02, 0.9, 0.03], "b": []}) == {"a": Pace(100.0, 0.03), "b": before["b"]}


@pytest.mark.parametrize(("percent", "value"), [(50, 5.0), (90, 9.0), (91, 10.0), (99, 10.0), (0, 1.0)])
def test_percentiles_are_values_that_occurred(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(10, 0, -1)], percent) == value
    assert percentile([], percent) == 0.0


def test_our_own_limits_are_read_and_name_tasks_that_there_are() -> None:
    slo = read_slo()
    assert 0 < slo.load < 1
    assert sum(slo.mix.values()) == 100
    assert {"classify", "classify/grpc", "detect", "faces", "embed", "verify"} <= set(slo.mix)
    for task in slo.mix:
        assert work_of(task).task.example
    assert all(limits.p99 > limits.p50 > 1 for limits in slo.limits.values())


GOOD = verdict.SLO.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("p50 = 4.0", "p51 = 4.0", "p51 means nothing"),
        ("settle_seconds", "settle_minutes", "settle_minutes means nothing"),
        ("[tasks.digits]", "[tasks.letters]", "letters means nothing"),
        ("digits = 10", "letters = 10", "no task named 'letters'|digits means nothing"),
        ("shed_rate = 0.01", "shed_rate = -1", "below 0"),
        ("load = 0.5", "load = 0", "no load"),
        ("[profile]", "[other]\n[profile]", "other means nothing"),
    ],
)
def test_a_wrong_limit_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) >= 1
    (tmp_path / "slo.toml").write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_slo(tmp_path / "slo.toml")


@pytest.mark.parametrize("every", [0, 100])
def test_the_command_exits_by_its_verdict(
    tmp_path: Path, every: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = honest() if not every else failed(honest(), "classify", every)
    run.write(tmp_path / "record.json")
    (tmp_path / "slo.toml").write_text(
        "[profile]\nload = 0.5\narrivals = 'fixed'\nsettle_seconds = 5\n[mix]\nclassify = 3\nverify = 1\n"
        "[limits]\np50 = 4\np99 = 20\nerror_rate = 0.001\nshed_rate = 0.01\n",
        encoding="utf-8",
    )
    arguments = ["verdict", str(tmp_path / "record.json"), "--slo", str(tmp_path / "slo.toml")]
    monkeypatch.setattr("sys.argv", arguments)
    assert verdict.main() == (1 if every else 0)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("FAILED: classify: 15 of 1500" if every else "PASSED")
