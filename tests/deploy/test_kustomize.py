"""Kustomizations: files are referenced and there, patches meet what they patch, images have a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import (
    BASE,
    DOCKER,
    KUBERNETES,
    VERSION,
    deployment,
    document,
    documents,
    pod_specs,
    stages,
)
from tests.paths import ROOT

KUSTOMIZATIONS = [*sorted(KUBERNETES.rglob("kustomization.yaml")), DOCKER / "grafana" / "kustomization.yaml"]
OVERLAYS = [path.parent for path in KUSTOMIZATIONS if path.parent.parent.name == "overlays"]


def ids(path: Path) -> str:
    return path.relative_to(DOCKER).as_posix()


def named(kustomization: Path) -> list[Path]:
    """The files that a kustomization reads."""
    what = document(kustomization)
    names = [*what.get("resources", []), *(patch["path"] for patch in what.get("patches", []))]
    names += [file for made in what.get("configMapGenerator", []) for file in made["files"]]
    return [(kustomization.parent / name).resolve() for name in names]


@pytest.mark.parametrize("path", sorted([*DOCKER.rglob("*.yaml"), *DOCKER.rglob("*.yml")]), ids=ids)
def test_every_yaml_file_parses_and_repeats_no_key(path: Path) -> None:
    assert all(documents(path))  # a key twice raises
    assert max(len(line) for line in path.read_text().splitlines()) <= 130


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=ids)
def test_what_is_named_is_there(path: Path) -> None:
    for target in named(path):
        assert target.is_file() or (target / "kustomization.yaml").is_file(), target
        if target.is_file():  # kustomize reads no file above its root
            assert target.is_relative_to(path.parent)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=ids)
def test_components_are_components_and_the_rest_is_not(path: Path) -> None:
    what = document(path)
    component = path.parent.parent.name == "components"
    assert what["kind"] == ("Component" if component else "Kustomization")
    assert what["apiVersion"] == f"kustomize.config.k8s.io/v1{'alpha1' if component else 'beta1'}"
    if not component and path.is_relative_to(KUBERNETES):
        assert what["namespace"] == document(BASE / "namespace.yaml")["metadata"]["name"]


def test_no_file_is_forgotten() -> None:
    there = {path for path in KUBERNETES.rglob("*") if path.is_file()}
    assert there == {path for path in KUSTOMIZATIONS if path.is_relative_to(KUBERNETES)} | {
        target for path in KUSTOMIZATIONS for target in named(path) if target.is_relative_to(KUBERNETES)
    } - {path.parent for path in KUSTOMIZATIONS}


def patches() -> list[Any]:
    """(file, patch) of every strategic merge patch."""
    files = [
        path.parent / patch["path"]
        for path in KUSTOMIZATIONS
        for patch in document(path).get("patches", [])
        if "target" not in patch
    ]
    return [(file, document(file)) for file in files]


@pytest.mark.parametrize(("path", "patch"), patches(), ids=[ids(path) for path, _ in patches()])
def test_a_patch_meets_what_it_patches(path: Path, patch: Any) -> None:
    base = [document(file) for file in named(BASE / "kustomization.yaml")]
    (patched,) = [
        whole
        for whole in base
        if (whole["apiVersion"], whole["kind"], whole["metadata"]["name"])
        == (patch["apiVersion"], patch["kind"], patch["metadata"]["name"])
    ]
    if patch["kind"] == "Deployment":
        whole, part = (d["spec"]["template"]["spec"]["containers"] for d in (patched, patch))
        assert {container["name"] for container in part} <= {container["name"] for container in whole}


def test_the_slice_takes_the_place_of_the_whole_gpu() -> None:
    limits = document(KUBERNETES / "overlays" / "gpu" / "resources.yaml")
    limits = limits["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1
    removed, added, *_ = document(KUBERNETES / "overlays" / "gpu-mig" / "slice.yaml")
    stem = "/spec/template/spec/containers/0/resources/limits/"
    assert removed == {"op": "remove", "path": f"{stem}nvidia.com~1gpu"}
    assert added == {"op": "add", "path": f"{stem}nvidia.com~1mig-1g.10gb", "value": 1}
    patch, _ = document(KUBERNETES / "overlays" / "gpu-mig" / "kustomization.yaml")["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": deployment()["metadata"]["name"]}


@pytest.mark.parametrize("folder", OVERLAYS, ids=ids)
def test_every_overlay_ends_at_the_base_with_an_image_of_this_version(folder: Path) -> None:
    what = document(folder / "kustomization.yaml")
    (below,) = [(folder / name).resolve() for name in what["resources"]]
    if below != BASE:
        assert below in OVERLAYS
        return
    (image,) = what["images"]
    assert image["name"] == deployment()["spec"]["template"]["spec"]["containers"][0]["image"]
    version, _, stage = image["newTag"].partition("-")
    assert version == VERSION
    assert stage in stages()


def test_kserve_runs_an_image_of_this_version() -> None:
    (container,) = pod_specs()["kserve"]["containers"]
    assert container["image"] == f"lynceus:{VERSION}-cpu"


def test_every_component_is_offered_by_an_overlay() -> None:
    text = (KUBERNETES / "overlays" / "cpu" / "kustomization.yaml").read_text()
    for path in KUSTOMIZATIONS:
        if path.parent.parent.name == "components":
            assert f"../../components/{path.parent.name}" in text


def test_nothing_is_said_of_a_file_that_is_not_there() -> None:
    for path in DOCKER.rglob("*.y*ml"):
        for word in path.read_text().replace("`", " ").split():
            word = word.strip("();:,.")
            if word.startswith("docker/") and not word.endswith(("/", "cpu", "gpu")):
                assert (ROOT / word).exists(), (path, word)
