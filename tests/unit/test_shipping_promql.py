"""The parser that the tests of rules and dashboard rest on."""

from __future__ import annotations

import pytest

from tests.unit.promql import PromQLError, parse
from tests.unit.shipping import wrong_in


def test_it_tells_metrics_matchers_and_groupings() -> None:
    query = parse(
        'histogram_quantile(0.99, sum by (task, le) (rate(a_bucket{code=~"x|y",job="z"}[5m]))) > 2.5'
    )
    assert query.selectors == [("a_bucket", {"code": ("=~", "x|y"), "job": ("=", "z")})]
    assert query.groupings == [(["task", "le"], ["a_bucket"])]


@pytest.mark.parametrize(
    "text",
    [
        "up",
        "absent(up == 1)",
        "sum(a) by (b, c)",
        "a:b:rate5m > 0.1 and -c < 2",
        "count by (x) (a) < on (y) group_left () count by (y) (b)",
        "(sum(rate(a[$__rate_interval])) or vector(0)) / sum(b)",
        'min_over_time(a{b!~"c)("}[5m]) > 0',
    ],
)
def test_good_queries(text: str) -> None:
    assert parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sum(a",
        "sum(a))",
        "rate(a)",
        "a[5m]",
        "avg(a[5m])",
        "sum by task (a)",
        "a{b}",
        "a{b=c}",
        'a{b=="c"}',
        "a >",
        "a b",
        "quantile_of(0.9, a)",
        "rate(a[5 minutes])",
        "a & b",
    ],
)
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
