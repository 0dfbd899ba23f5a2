"""Grafana's dashboard: queries name what the service measures, variables are defined, nothing overlaps."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest

from tests.deploy.files import DOCKER, dashboard, document, labels_of, series, wrong_in
from tests.deploy.promql import parse

BOARD = dashboard()
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
SHOWN = (
    "requests",
    "request_seconds",
    "stage_seconds",
    "batch_size",
    "queue_depth",
    "inflight",
    "dropped",
    "model_info",
    "worker_deaths",
    "jobs",
)
BUILT_IN = {"__rate_interval", "__range", "__interval"}


def title(panel: Any) -> str:
    return str(panel["title"])


@pytest.mark.parametrize("panel", PANELS, ids=title)
def test_every_query_parses_and_names_what_there_is(panel: Any) -> None:
    assert panel["targets"]
    assert panel["description"]
    for target in panel["targets"]:
        query = parse(target["expr"])
        assert wrong_in(query) == []
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels_of(query)


@pytest.mark.parametrize("panel", PANELS, ids=title)
def test_every_panel_asks_the_chosen_data_source_with_defined_variables(panel: Any) -> None:
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    for asked in (panel, *panel["targets"]):
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | BUILT_IN


def test_the_variables_are_filled_from_metrics_that_there_are() -> None:
    queries = {v["name"]: v["query"] for v in BOARD["templating"]["list"] if v["type"] == "query"}
    assert set(queries) == {"task", "model"}
    for name, query in queries.items():
        found = re.fullmatch(r"label_values\((\w+)\{job=\"lynceus\"\}, (\w+)\)", query["query"])
        assert found is not None
        assert found[2] == name
        assert found[2] in series()[found[1]]


def test_panels_have_numbers_of_their_own_and_places_of_their_own() -> None:
    every = BOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    places = {panel["title"] + str(panel["id"]): panel["gridPos"] for panel in every}
    assert all(p["x"] >= 0 and p["x"] + p["w"] <= 24 for p in places.values())
    for (one, a), (other, b) in combinations(places.items(), 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one, other)


@pytest.mark.parametrize("metric", SHOWN)
def test_what_an_operator_needs_is_shown(metric: str) -> None:
    shown = {name for p in PANELS for t in p["targets"] for name, _ in parse(t["expr"]).selectors}
    assert any(name.startswith(f"lynceus_{metric}") for name in shown)


def test_grafana_finds_its_data_source_and_the_dashboard() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = document(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    (chosen,) = [v for v in BOARD["templating"]["list"] if v["type"] == "datasource"]
    assert chosen["current"]["value"] == source["uid"]
    (provider,) = document(provisioning / "dashboards" / "lynceus.yaml")["providers"]
    grafana = document(DOCKER / "compose.yaml")["services"]["grafana"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in grafana["volumes"])
    assert mounts[provider["options"]["path"]] == "./grafana/dashboards"
    assert mounts["/etc/grafana/provisioning"] == "./grafana/provisioning"
    assert source["url"] == "http://prometheus:9090"
