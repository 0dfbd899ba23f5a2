"""What is shipped, read by the tools that it is for: promtool, kubectl's kustomize. Skipped without them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import DOCKER, KUBERNETES, document, rules
from tests.deploy.test_schemas import VERSIONS

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def told_by(*command: str | Path) -> str:
    """A command's standard output; fails with all that it said."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@needs_promtool
def test_prometheus_takes_the_rules_and_the_configuration(tmp_path: Path) -> None:
    count = len(rules("alert") + rules("record"))
    told = told_by("promtool", "check", "rules", DOCKER / "prometheus" / "rules.yml")
    assert f"{count} rules found" in told
    told_by("promtool", "check", "config", DOCKER / "prometheus" / "prometheus.yml")
    resource = document(KUBERNETES / "components" / "monitoring" / "prometheusrule.yaml")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": resource["spec"]["groups"]}))
    told_by("promtool", "check", "rules", tmp_path / "rules.yml")
    told_by("promtool", "test", "rules", DOCKER / "prometheus" / "rules_test.yml")


@needs_kubectl
@pytest.mark.parametrize("overlay", ["overlays/cpu", "overlays/gpu", "overlays/gpu-mig", "kserve"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the validator's own libraries
def test_kustomize_builds_what_kubernetes_takes(overlay: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    built: list[Any] = list(yaml.safe_load_all(told_by("kubectl", "kustomize", KUBERNETES / overlay)))
    kinds = {manifest["kind"] for manifest in built}
    assert kinds >= ({"Deployment", "Service", "Namespace"} if overlay != "kserve" else {"InferenceService"})
    for manifest in built:
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "lynceus"
        if manifest["kind"] != "InferenceService":
            validator.validate(manifest, VERSIONS[-1], strict=True)


@needs_kubectl
@pytest.mark.parametrize(
    ("component", "kind"),
    [
        ("monitoring", "PrometheusRule"),
        ("keda", "ScaledObject"),
        ("api-keys", "Deployment"),
        ("jobs", "PodMonitor"),
    ],
)
def test_a_component_fits_onto_an_overlay(component: str, kind: str, tmp_path: Path) -> None:
    shutil.copytree(DOCKER, tmp_path, dirs_exist_ok=True)
    mine = tmp_path / "kubernetes" / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [../overlays/cpu]\ncomponents: [../components/{component}]\n"
    )
    built = list(yaml.safe_load_all(told_by("kubectl", "kustomize", mine)))
    assert kind in {manifest["kind"] for manifest in built}
    kinds = ("HorizontalPodAutoscaler", "ScaledObject")
    scaled = [m["spec"]["scaleTargetRef"]["name"] for m in built if m["kind"] in kinds]
    assert len(set(scaled)) == len(scaled) >= 1  # never two that pull at the same Deployment
