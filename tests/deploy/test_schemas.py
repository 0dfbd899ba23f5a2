"""Manifests against schemas: Kubernetes' own (of `kubernetes-validate`), and those of custom resources."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import BASE, KUBERNETES, document
from tests.paths import ROOT

SCHEMAS = ROOT / "tests" / "schemas"
VERSIONS = ("1.30", "1.37")
"""The oldest that the manifests are for (the preStop sleep), and a current one."""

JOBS = KUBERNETES / "components" / "jobs"
CORE = [
    *(BASE / name for name in document(BASE / "kustomization.yaml")["resources"]),
    *(JOBS / f"{name}.yaml" for name in ("deployment", "disruption", "network")),
]
CUSTOM = [
    KUBERNETES / "components" / "monitoring" / "servicemonitor.yaml",
    KUBERNETES / "components" / "monitoring" / "prometheusrule.yaml",
    KUBERNETES / "components" / "keda" / "scaledobject.yaml",
    JOBS / "scaledobject.yaml",
    JOBS / "podmonitor.yaml",
    KUBERNETES / "kserve" / "inferenceservice.yaml",
]


def ids(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", CORE, ids=ids)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the validator's own libraries
def test_kubernetes_takes_the_manifest(path: Path, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(document(path), version, strict=True)


@pytest.mark.parametrize(
    "path",
    sorted(path for name in ("resources", "keys", "serving") for path in KUBERNETES.rglob(f"{name}.yaml")),
    ids=lambda path: path.parent.name,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kubernetes_takes_what_a_patch_adds(path: Path) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    whole, patch = document(BASE / "deployment.yaml"), document(path)
    assert set(patch["spec"]) <= {"strategy", "template"}
    pod, added = whole["spec"]["template"]["spec"], patch["spec"]["template"]["spec"]
    # what a patch brings stands in the place of the base's own: enough for names and types
    pod["containers"] = [pod["containers"][0] | container for container in added.pop("containers")]
    pod |= added
    whole["spec"]["strategy"] |= patch["spec"].get("strategy", {})
    validator.validate(whole, VERSIONS[0], strict=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kubernetes_refuses_a_field_that_is_misspelt() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    wrong = document(BASE / "deployment.yaml")
    container = wrong["spec"]["template"]["spec"]["containers"][0]
    container["livenesProbe"] = container.pop("livenessProbe")
    with pytest.raises(validator.ValidationError):
        validator.validate(wrong, VERSIONS[0], strict=True)


def schema_of(manifest: Any) -> Any:
    """The schema of a custom resource, by its kind."""
    return json.loads((SCHEMAS / f"{manifest['kind'].lower()}.json").read_text())


@pytest.mark.parametrize("path", CUSTOM, ids=ids)
def test_custom_resources_keep_to_their_schema(path: Path) -> None:
    validation = pytest.importorskip("jsonschema")
    manifest = document(path)
    validation.Draft7Validator.check_schema(schema_of(manifest))
    validation.validate(manifest, schema_of(manifest), cls=validation.Draft7Validator)
    wrong = copy.deepcopy(manifest)
    wrong["spec"]["selektor"] = {}
    with pytest.raises(validation.ValidationError):
        validation.validate(wrong, schema_of(manifest), cls=validation.Draft7Validator)


def test_every_whole_manifest_has_a_schema() -> None:
    kinds = {document(path)["kind"].lower() for path in CUSTOM}
    assert kinds == {path.stem for path in SCHEMAS.glob("*.json")}
    partial = {"kustomization.yaml", "resources.yaml", "keys.yaml", "slice.yaml", "without-autoscaler.yaml"}
    partial |= {"serving.yaml", "serving-egress.yaml", "scaling.yaml"}
    assert {p for p in KUBERNETES.rglob("*.yaml") if p.name not in partial} == {*CORE, *CUSTOM}
