"""Prometheus' rules: they parse and name what the service measures; the runbook has every alert."""

from __future__ import annotations

import re
from typing import Any

import pytest

from service.errors import TABLE, DeadlineExceeded, NotReady, OutOfMemory
from service.settings import Settings
from tests.deploy.files import (
    DOCKER,
    KUBERNETES,
    TARGET,
    dashboard,
    document,
    labels_of,
    rule_groups,
    rules,
    series,
    wrong_in,
)
from tests.deploy.promql import parse
from tests.paths import ROOT

ALERTS = rules("alert")
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def name(rule: Any) -> str:
    return str(rule.get("alert") or rule["record"])


@pytest.mark.parametrize("rule", rules("record") + ALERTS, ids=name)
def test_every_expression_parses_and_names_what_there_is(rule: Any) -> None:
    assert wrong_in(parse(rule["expr"])) == []


@pytest.mark.parametrize("rule", rules("record"), ids=name)
def test_recorded_series_are_named_for_their_labels_and_used(rule: Any) -> None:
    assert re.fullmatch(r"[a-z_]+:lynceus_\w+:\w+", rule["record"])
    assert {"namespace", "job", "task"} <= labels_of(parse(rule["expr"]))
    asked = [rule["expr"] for rule in rules("record") + ALERTS]
    asked += [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    assert any(rule["record"] in expression for expression in asked)


@pytest.mark.parametrize("rule", ALERTS, ids=name)
def test_every_alert_tells_what_it_means_and_where_to_read(rule: Any) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert re.fullmatch(r"\d+m", rule["for"])
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    assert notes["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert f"\n## {rule['alert']}\n" in RUNBOOK
    named = set(re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["description"]))
    assert named <= labels_of(parse(rule["expr"]))


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    sections = set(re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)) - {"First"}
    assert sections == {rule["alert"] for rule in ALERTS}


def test_the_runbook_names_settings_that_there_are() -> None:
    settings = {f"LYNCEUS_{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"LYNCEUS_[A-Z_]+", RUNBOOK)) <= settings


def test_the_runbook_quotes_panels_that_there_are() -> None:
    titles = {panel["title"] for panel in dashboard()["panels"]}
    assert set(re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)", RUNBOOK)) <= titles


def test_kubernetes_gets_the_same_rules() -> None:
    other = document(KUBERNETES / "components" / "monitoring" / "prometheusrule.yaml")
    assert other["spec"]["groups"] == rule_groups()


def test_errors_of_the_service_count_and_those_of_the_client_do_not() -> None:
    (errors,) = [rule for rule in rules("record") if "errors" in rule["record"]]
    (matcher,) = [m["code"] for _, m in parse(errors["expr"]).selectors if "code" in m]
    ours = {TABLE[error].code for error in (NotReady, OutOfMemory, DeadlineExceeded)} | {"internal"}
    assert set(matcher[1].split("|")) == ours


def test_a_long_wait_is_told_before_it_is_refused() -> None:
    (alert,) = [rule for rule in ALERTS if rule["alert"] == "LynceusQueueSaturated"]
    assert float(alert["expr"].rpartition(">")[2]) == Settings.model_fields["max_wait_seconds"].default / 2


def test_prometheus_scrapes_the_job_that_the_rules_ask_for() -> None:
    configuration = document(DOCKER / "prometheus" / "prometheus.yml")
    jobs = configuration["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["lynceus", "lynceus-jobs"]
    assert {job["metrics_path"] for job in jobs} == {"/metrics"}
    assert configuration["rule_files"] == ["rules.yml"]


def test_the_adapter_offers_the_metric_that_the_autoscaler_asks_for() -> None:
    (rule,) = document(DOCKER / "prometheus" / "adapter-rules.yaml")["rules"]
    metrics = document(KUBERNETES / "base" / "autoscaler.yaml")["spec"]["metrics"]
    (asked,) = [metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"]
    assert rule["name"]["as"] == asked
    assert asked in series()
    query = rule["metricsQuery"].replace("<<.Series>>", asked).replace("<<.GroupBy>>", "namespace, pod")
    assert wrong_in(parse(query.replace("<<.LabelMatchers>>", 'namespace="a",pod="b"'))) == []
    assert set(rule["resources"]["overrides"]) <= TARGET


def test_keda_asks_for_a_metric_that_there_is() -> None:
    for component in ("keda", "jobs"):
        scaled = document(KUBERNETES / "components" / component / "scaledobject.yaml")
        (trigger,) = scaled["spec"]["triggers"]
        assert wrong_in(parse(trigger["metadata"]["query"])) == []
