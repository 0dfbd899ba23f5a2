"""What a query of PromQL asks for, by a port of Prometheus' own parser (promql-parser)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import promql_parser

GRAFANA = {"$__rate_interval": "5m", "$__range": "1h"}
"""Grafana's variables within ranges, each with a duration that could stand there."""

MATCHERS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}


class PromQLError(ValueError):
    """Prometheus or Grafana would refuse the query."""


@dataclass
class Query:
    """What a query asks for.

    Attributes:
        selectors: every metric with its matchers: label -> (operator, value).
        groupings: for every `by` and `on`, its labels and the metrics below it (none below `on`).
    """

    selectors: list[tuple[str, dict[str, tuple[str, str]]]] = field(default_factory=list)
    groupings: list[tuple[list[str], list[str]]] = field(default_factory=list)


def parse(text: str) -> Query:
    """Parses a whole query.

    Raises:
        PromQLError: it is none, or gives a range instead of a value.
    """
    plain = re.sub(r"\$__\w+", lambda found: GRAFANA.get(found[0], found[0]), text)
    try:
        whole = promql_parser.parse(plain)
    except ValueError as error:
        raise PromQLError(f"{error}: {text}") from error
    if isinstance(whole, (promql_parser.MatrixSelector, promql_parser.SubqueryExpr)):
        raise PromQLError(f"the whole is a range, not a value: {text}")
    query = Query()
    below: list[int] = []  # for each aggregation around, how many selectors came before it

    def enter(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.AggregateExpr):
            below.append(len(query.selectors))
        if isinstance(part, promql_parser.VectorSelector):
            matchers = {one.name: (MATCHERS[str(one.op)], one.value) for one in part.matchers.matchers}
            query.selectors.append((part.name, matchers))

    def leave(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.AggregateExpr):
            metrics = [metric for metric, _ in query.selectors[below.pop() :]]
            query.groupings.append((part.modifier.labels if part.modifier else [], metrics))
        if isinstance(part, promql_parser.BinaryExpr) and part.modifier and part.modifier.matching:
            query.groupings.append((part.modifier.matching.labels, []))

    promql_parser.walk(whole, enter, leave)
    return query
