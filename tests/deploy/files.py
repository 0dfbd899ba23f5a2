"""What the tests of `docker/` share: its files, parsed, and what the service says of itself."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Counter, Gauge, Histogram, Summary

from service import __version__
from service.errors import INTERNAL, TABLE
from service.telemetry.metrics import STAGES, Metrics
from tests.deploy.promql import Query
from tests.paths import ROOT

DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
BASE = KUBERNETES / "base"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "lynceus.json"
VERSION = __version__

TARGET = {"job", "instance", "namespace", "pod"}
"""Labels that Prometheus sets on whatever it scrapes."""

VALUES = {
    "code": {kind.code for kind in TABLE.values()} | {INTERNAL.code, "ok", "cancelled"},
    "stage": {*STAGES, "prepare"},
    "reason": {"full", "expired", "cancelled"},
    "job": {"lynceus"},
}


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, as Kubernetes does and YAML's own loader does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        self.flatten_mapping(node)
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, f"a key twice in {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[Any]:
    """The documents of a YAML file.

    Raises:
        YAMLError: it does not parse, or a mapping has a key twice.
    """
    return list(yaml.load_all(path.read_text(encoding="utf-8"), _Loader))


def document(path: Path) -> Any:
    """The only document of a YAML file."""
    (only,) = documents(path)
    return only


def deployment() -> Any:
    """The base's Deployment."""
    return document(BASE / "deployment.yaml")


def pod_specs() -> dict[str, Any]:
    """Every whole pod that is shipped: the Deployment's, and KServe's, which has the same fields."""
    predictor = document(KUBERNETES / "kserve" / "inferenceservice.yaml")["spec"]["predictor"]
    return {"deployment": deployment()["spec"]["template"]["spec"], "kserve": predictor}


def environment(container: Any) -> dict[str, str]:
    """A container's own variables; not those out of a Secret."""
    return {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    parts = (line.partition(" ") for line in joined.splitlines() if line)
    return [(name, rest.strip()) for name, _, rest in parts]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """The Dockerfile's stages in their order: name -> (what it is built from, its instructions)."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for name, rest in instructions():
        if name == "FROM":
            origin, _, stage = rest.partition(" AS ")
            current = []
            found[stage] = (origin, current)
        else:
            current.append((name, rest))
    return found


@cache
def rule_groups() -> list[Any]:
    """The groups of Prometheus' rules."""
    groups: list[Any] = document(DOCKER / "prometheus" / "rules.yml")["groups"]
    return groups


def rules(kind: str) -> list[Any]:
    """All rules of a kind: `alert` or `record`."""
    return [rule for group in rule_groups() for rule in group["rules"] if kind in rule]


@cache
def dashboard() -> Any:
    """Grafana's dashboard."""
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


@cache
def series() -> dict[str, set[str]]:
    """Every series that a query may name, with its labels: the service's, `up`, recorded ones."""
    found: dict[str, set[str]] = {"up": set(TARGET)}
    for metric in vars(Metrics()).values():
        if isinstance(metric, (Counter, Gauge, Histogram, Summary)):
            labels = {*metric._labelnames, *TARGET}
            if isinstance(metric, (Histogram, Summary)):
                found |= {f"{metric._name}_{part}": labels for part in ("sum", "count")}
                if isinstance(metric, Histogram):
                    found[f"{metric._name}_bucket"] = labels | {"le"}
            else:
                found[metric._name + ("_total" if isinstance(metric, Counter) else "")] = labels
    return found | {rule["record"]: {"namespace", "job", "task"} for rule in rules("record")}


def wrong_in(query: Query) -> list[str]:
    """What a query asks for that there is not: metrics, labels, values of labels."""
    known = series()
    wrong = []
    for metric, matchers in query.selectors:
        if metric not in known:
            wrong.append(f"no metric {metric}")
            continue
        for label, (operator, value) in matchers.items():
            if label not in known[metric]:
                wrong.append(f"{metric} has no label {label}")
            values = set(value.split("|")) if operator.endswith("~") else {value}
            if label in VALUES and not value.startswith("$") and not values <= VALUES[label]:
                wrong.append(f"{label} is never {value}")
    for labels, metrics in query.groupings:
        if metrics:
            there = set().union(*(known.get(metric, set()) for metric in metrics))
            wrong += [f"no label {label} below {metrics}" for label in labels if label not in there]
    return wrong


def labels_of(query: Query) -> set[str]:
    """Labels that a query's answer may carry: of its groupings, else of its metrics."""
    grouped = {label for labels, _ in query.groupings for label in labels}
    return grouped or set().union(*(series()[metric] for metric, _ in query.selectors))
