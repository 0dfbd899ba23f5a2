"""Which series make an alert fire, and which do not: what promtool is given, evaluated without it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

import promql_parser as ast
import pytest

from tests.deploy.evaluate import STEP, fires
from tests.deploy.files import DOCKER, document, rules

SAMPLES = 15 * 60 // STEP + 1
ALERTS = {rule["alert"]: rule for rule in rules("alert")}
TESTS = document(DOCKER / "prometheus" / "rules_test.yml")["tests"]

PART = re.compile(r"(?P<first>_|[\d.]+)((?P<step>[+-][\d.]+)?x(?P<more>\d+))?")
ASKED = re.compile(r'count\(ALERTS\{alertname="(\w+)",alertstate="firing"\}\)')


def samples(text: str) -> list[float]:
    """Of promtool's notation: `1+2x3` is 1 3 5 7, `1x3` is 1 1 1 1, `_` is no sample."""
    found = []
    for part in text.split():
        match = PART.fullmatch(part)
        assert match, part
        first = math.nan if match["first"] == "_" else float(match["first"])
        found += [first + index * float(match["step"] or 0) for index in range(1 + int(match["more"] or 0))]
    return found


def test_promtools_notation() -> None:
    assert samples("1+2x3 7 4x1 5-1x2") == [1, 3, 5, 7, 7, 4, 4, 5, 4, 3]
    assert math.isnan(samples("_")[0])


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test["name"])
def test_an_alert_fires_for_what_it_is_for(test: Any) -> None:
    series = defaultdict(list)
    for given in test["input_series"]:
        named = ast.parse(given["series"])
        values = samples(given["values"])
        assert len(values) == SAMPLES
        series[named.name].append(({one.name: one.value for one in named.matchers.matchers}, values))
    (asked,) = test["promql_expr_test"]
    match = ASKED.fullmatch(asked["expr"])
    assert match, asked
    assert test["interval"] == f"{STEP}s"
    assert asked["eval_time"] == "15m"
    expected = [sample["value"] for sample in asked["exp_samples"]]
    found = fires(ALERTS[match[1]], series, SAMPLES)
    assert ([len(found)] if found else []) == expected
