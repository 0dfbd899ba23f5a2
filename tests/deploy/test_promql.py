"""What the tests of rules and dashboard rest on: what a query asks for, and whether the service has it."""

from __future__ import annotations

import pytest

from tests.deploy.files import wrong_in
from tests.deploy.promql import PromQLError, parse


def test_it_tells_metrics_matchers_and_groupings() -> None:
    query = parse(
        'histogram_quantile(0.99, sum by (task, le) (rate(a_bucket{code=~"x|y",job!="z"}[5m]))) > 2.5'
    )
    assert query.selectors == [("a_bucket", {"code": ("=~", "x|y"), "job": ("!=", "z")})]
    assert query.groupings == [(["task", "le"], ["a_bucket"])]


def test_both_sides_of_an_operator_and_what_they_are_matched_on() -> None:
    query = parse('count by (x) (a) < on (y) group_left () (sum(b{c="d"}) or vector(0))')
    assert query.selectors == [("a", {}), ("b", {"c": ("=", "d")})]
    assert query.groupings == [(["x"], ["a"]), ([], ["b"]), (["y"], [])]


@pytest.mark.parametrize("text", ["up", "sum(rate(a[$__rate_interval]))", 'a{model=~"$model"}'])
def test_good_queries(text: str) -> None:
    assert parse(text)


@pytest.mark.parametrize("text", ["", "sum(a", "rate(a)", "a[5m]", "a[1h:5m]", "rate(a[$__interval_typo])"])
def test_bad_queries(text: str) -> None:
    with pytest.raises(PromQLError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("lynceus_request_total", "no metric"),
        ("lynceus_request_seconds", "no metric"),
        ('lynceus_requests_total{model="a"}', "has no label model"),
        ('lynceus_requests_total{code=~"internal|panic"}', "code is never"),
        ("sum by (stage) (lynceus_queue_depth)", "no label stage"),
    ],
)
def test_what_the_service_does_not_measure_is_told(text: str, what: str) -> None:
    (wrong,) = wrong_in(parse(text))
    assert what in wrong
