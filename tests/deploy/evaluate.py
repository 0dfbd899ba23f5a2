"""What an alert's expression gives for series of samples: the part of PromQL that the rules use.

Samples are taken every `STEP` seconds, as Prometheus' own rule tests write them. Ranges are closed on the
left; `rate` and `increase` are not extrapolated, which changes no sign and no order.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import promql_parser as ast

STEP = 15
Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Series = Mapping[str, Sequence[tuple[Mapping[str, str], Sequence[float]]]]
"""By metric: its labels and samples; NaN where there was none."""

ARITHMETIC: dict[str, Callable[[float, float], float]] = {"/": lambda a, b: a / b if b else math.nan}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
OVER = {
    "min_over_time": min,
    "max_over_time": max,
    "avg_over_time": lambda values: sum(values) / len(values),
    "increase": lambda values: sum(max(0.0, b - a) for a, b in pairwise(values)),
}


def value(text: str, series: Series, index: int) -> Vector | float:
    """The expression's value at the sample of that index."""
    return _value(ast.parse(text), series, index)


def fires(rule: Any, series: Series, samples: int) -> list[Labels]:
    """The label sets that an alert fires for at the last of so many samples: true for all of its `for`."""
    held = int(rule["for"].removesuffix("m")) * 60 // STEP
    found = [set(_vector(value(rule["expr"], series, index))) for index in range(samples - 1 - held, samples)]
    return sorted(set.intersection(*found), key=sorted)


def _vector(given: Vector | float) -> Vector:
    assert isinstance(given, dict), given
    return given


def _selected(one: Any, series: Series) -> list[tuple[Labels, Sequence[float]]]:
    wanted = {matcher.name: (str(matcher.op), matcher.value) for matcher in one.matchers.matchers}
    assert all(op == "MatchOp.Equal" for op, _ in wanted.values()), "only `=` is known here"
    return [
        (frozenset(labels.items()), values)
        for labels, values in series.get(one.name, ())
        if all(labels.get(name, "") == text for name, (_, text) in wanted.items())
    ]


def _value(part: Any, series: Series, index: int) -> Vector | float:
    match part:
        case ast.NumberLiteral():
            return float(part.val)
        case ast.ParenExpr():
            return _value(part.expr, series, index)
        case ast.VectorSelector():
            return {
                labels: values[index] for labels, values in _selected(part, series) if _there(values, index)
            }
        case ast.Call():
            return _called(part, series, index)
        case ast.AggregateExpr():
            return _aggregated(part, _vector(_value(part.expr, series, index)))
        case ast.BinaryExpr():
            return _joined(str(part.op), *(_value(side, series, index) for side in (part.lhs, part.rhs)))
    raise NotImplementedError(type(part))


def _there(values: Sequence[float], index: int) -> bool:
    return 0 <= index < len(values) and not math.isnan(values[index])


def _called(part: Any, series: Series, index: int) -> Vector:
    name = part.func.name
    if name == "histogram_quantile":
        return _quantile(part.args[0].val, _vector(_value(part.args[1], series, index)))
    (over,) = part.args
    seconds = over.range.total_seconds()
    found = {}
    for labels, values in _selected(over.vector_selector, series):
        window = [values[at] for at in range(index - int(seconds // STEP), index + 1) if _there(values, at)]
        if len(window) > (name in ("rate", "increase")):
            found[labels] = OVER["increase"](window) / seconds if name == "rate" else OVER[name](window)
    return found


def _quantile(quantile: float, buckets: Vector) -> Vector:
    found: dict[Labels, dict[float, float]] = {}
    for labels, count in buckets.items():
        named = dict(labels)
        found.setdefault(frozenset(labels - {("le", named["le"])}), {})[float(named["le"])] = count
    return {
        labels: min(le for le, count in counts.items() if count >= quantile * counts[math.inf])
        for labels, counts in found.items()
        if counts[math.inf]
    }


def _aggregated(part: Any, vector: Vector) -> Vector:
    by = set(part.modifier.labels) if part.modifier else set()
    groups: dict[Labels, list[float]] = {}
    for labels, one in vector.items():
        groups.setdefault(frozenset(label for label in labels if label[0] in by), []).append(one)
    how: Any = {"sum": sum, "max": max, "count": len}[str(part.op)]
    return {labels: float(how(values)) for labels, values in groups.items()}


def _joined(op: str, left: Vector | float, right: Vector | float) -> Vector | float:
    if op == "and":
        return {labels: one for labels, one in _vector(left).items() if labels in _vector(right)}
    vector = _vector(left)
    pairs = {
        labels: (one, right if isinstance(right, float) else right[labels])
        for labels, one in vector.items()
        if isinstance(right, float) or labels in right
    }
    if op in COMPARISONS:
        return {labels: one for labels, (one, other) in pairs.items() if COMPARISONS[op](one, other)}
    return {labels: ARITHMETIC[op](one, other) for labels, (one, other) in pairs.items()}
