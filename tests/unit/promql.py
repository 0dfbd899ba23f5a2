"""A small parser of PromQL: tells a query of ours that Prometheus would refuse, and what a query asks for.

It knows the grammar, the functions and aggregations that are used, and which take a range. It computes
nothing. The grammar is that of https://prometheus.io/docs/prometheus/latest/querying/basics/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<range>\[[^\]\[]*\])
    | (?P<number>\d+(?:\.\d+)?(?![\w.]))
    | (?P<duration>\d+(?:ms|[smhdwy]))
    | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<operator>==|!=|=~|!~|<=|>=|[-+*/%^<>={}(),])
    )""",
    re.VERBOSE,
)
RANGE = re.compile(r"\[(?:\d+(?:ms|[smhdwy])|\$__rate_interval|\$__range)\]")
OPERATORS = {"+", "-", "*", "/", "%", "^", "==", "!=", "<", ">", "<=", ">=", "and", "or", "unless"}
OVER_RANGES = {"rate", "increase", "avg_over_time", "min_over_time", "max_over_time"}
FUNCTIONS = OVER_RANGES | {"histogram_quantile", "absent", "vector"}
AGGREGATIONS = {"sum", "count", "max", "min", "avg"}


class PromQLError(ValueError):
    """Prometheus would refuse the query."""


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
        PromQLError: it is none.
    """
    parser = _Parser(text)
    if parser.expression():
        raise PromQLError(f"the whole is a range, not a value: {text}")
    if parser.kind != "end":
        raise PromQLError(f"{parser.value!r} is left over in: {text}")
    return parser.query


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text.strip()
        self._at = 0
        self.query = Query()
        self.kind, self.value = "", ""
        self._advance()

    def expression(self) -> bool:
        """A term, or several with operators between; whether it is a range."""
        is_range = self._term()
        while self.value in OPERATORS and self.kind in ("operator", "name"):
            if is_range:
                raise PromQLError(f"a range before {self.value!r} in: {self._text}")
            self._advance()
            if self.value == "bool":
                self._advance()
            if self.value in ("on", "ignoring"):
                self._advance()
                self.query.groupings.append((self._labels(), []))
                if self.value in ("group_left", "group_right"):
                    self._advance()
                    if self.value == "(":
                        self._labels()
            if self._term():
                raise PromQLError(f"a range as an operand in: {self._text}")
        return is_range

    def _term(self) -> bool:
        if self.value == "-":
            self._advance()
        if self.kind in ("number", "string"):
            self._advance()
            return False
        if self.value == "(":
            self._advance()
            is_range = self.expression()
            self._expect(")")
            return is_range
        if self.kind != "name":
            raise PromQLError(f"{self.value!r} is out of place in: {self._text}")
        name = self.value
        self._advance()
        if name in AGGREGATIONS:
            return self._aggregation()
        if self.value == "(":
            return self._function(name)
        return self._selector(name)

    def _aggregation(self) -> bool:
        labels: list[str] = []
        first = len(self.query.selectors)
        if self.value == "by":
            self._advance()
            labels = self._labels()
        if any(self._arguments()):
            raise PromQLError(f"an aggregation of a range in: {self._text}")
        if self.value == "by" and not labels:  # it may stand behind as well
            self._advance()
            labels = self._labels()
        below = [metric for metric, _ in self.query.selectors[first:]]
        self.query.groupings.append((labels, below))
        return False

    def _function(self, name: str) -> bool:
        if name not in FUNCTIONS:
            raise PromQLError(f"no function {name!r} in: {self._text}")
        arguments = self._arguments()
        if arguments[-1] != (name in OVER_RANGES) or any(arguments[:-1]):
            raise PromQLError(f"{name} has a range where it needs none, or the other way round: {self._text}")
        return False

    def _selector(self, metric: str) -> bool:
        matchers: dict[str, tuple[str, str]] = {}
        if self.value == "{":
            self._advance()
            while self.value != "}":
                label = self._take("name")
                operator = self._take("operator")
                if operator not in ("=", "!=", "=~", "!~"):
                    raise PromQLError(f"{operator!r} is no matcher in: {self._text}")
                matchers[label] = (operator, self._take("string")[1:-1])
                if self.value != "}":
                    self._expect(",")
            self._expect("}")
        self.query.selectors.append((metric, matchers))
        if self.kind != "range":
            return False
        if not RANGE.fullmatch(self.value):
            raise PromQLError(f"{self.value} is no range in: {self._text}")
        self._advance()
        return True

    def _arguments(self) -> list[bool]:
        self._expect("(")
        ranges = [self.expression()]
        while self.value == ",":
            self._advance()
            ranges.append(self.expression())
        self._expect(")")
        return ranges

    def _labels(self) -> list[str]:
        self._expect("(")
        labels = []
        while self.value != ")":
            labels.append(self._take("name"))
            if self.value != ")":
                self._expect(",")
        self._expect(")")
        return labels

    def _expect(self, value: str) -> None:
        if self.value != value or self.kind == "string":
            raise PromQLError(f"{value!r} expected, not {self.value!r}, in: {self._text}")
        self._advance()

    def _take(self, kind: str) -> str:
        if self.kind != kind:
            raise PromQLError(f"a {kind} expected, not {self.value!r}, in: {self._text}")
        value = self.value
        self._advance()
        return value

    def _advance(self) -> None:
        if self._at >= len(self._text):
            self.kind, self.value = "end", ""
            return
        found = TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup is None:
            raise PromQLError(f"{self._text[self._at :]!r} is nothing that PromQL knows")
        self.kind, self.value = found.lastgroup, found[found.lastgroup]
        self._at = found.end()
