"""compose.yaml: one service in two profiles, pinned images, no secrets, mounts that exist."""

from __future__ import annotations

import re
from typing import Any

import pytest

from service.host.connections import SPARE
from service.settings import Settings
from tests.deploy.files import DOCKER, KUBERNETES, document, stages

COMPOSE = document(DOCKER / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name in ("lynceus-cpu", "lynceus-gpu")}


def test_a_profile_chooses_the_device() -> None:
    assert {name: service["profiles"] for name, service in OURS.items()} == {
        "lynceus-cpu": ["cpu"],
        "lynceus-gpu": ["gpu"],
    }
    for service in OURS.values():
        (profile,) = service["profiles"]
        assert service["build"]["target"] == profile
        assert profile in stages()
        assert service["image"].endswith(f"-{profile}")
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()
        assert service["networks"]["default"]["aliases"] == ["lynceus"]


def test_images_of_others_are_pinned() -> None:
    for service in SERVICES.values():
        if "build" not in service:
            assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+(-cpu)?", service["image"])
            assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", OURS)
def test_the_service_may_write_to_tmp_alone_and_do_nothing_else(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert [entry.partition(":")[0] for entry in service["tmpfs"]] == ["/tmp"]  # noqa: S108
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_the_profile_of_jobs_has_what_the_service_is_told_of() -> None:
    worker, redis = SERVICES["lynceus-jobs"], SERVICES["redis"]
    assert worker["profiles"] == redis["profiles"] == ["jobs"]
    assert worker["image"] == OURS["lynceus-cpu"]["image"].replace("lynceus:", "lynceus-torch:")
    assert worker["build"] == OURS["lynceus-cpu"]["build"] | {"target": "cpu-torch"}
    assert "cpu-torch" in stages()
    assert worker["command"] == ["python", "-m", "service.jobs.worker"]
    url = worker["environment"]["LYNCEUS_JOBS"]
    assert url == "redis://redis:6379/0", "the service of that name, on its default port"
    assert f"LYNCEUS_JOBS={url} docker compose" in (DOCKER / "compose.yaml").read_text()
    assert OURS["lynceus-cpu"]["environment"]["LYNCEUS_JOBS"] == "${LYNCEUS_JOBS:-local}"
    durable = " ".join(redis["command"])
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert option in durable
    deployment = document(KUBERNETES / "components" / "jobs" / "deployment.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    memory = worker["deploy"]["resources"]["limits"]["memory"]
    assert f"{memory}i" == container["resources"]["limits"]["memory"]
    assert worker["cap_drop"] == redis["cap_drop"] == ["ALL"]
    assert worker["read_only"]
    assert redis["read_only"]


@pytest.mark.parametrize("name", OURS)
def test_the_end_is_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in OURS[name]["environment"].items():
        assert variable.removeprefix("LYNCEUS_").lower() in Settings.model_fields
        if not value.startswith("${"):  # of the user who starts it
            monkeypatch.setenv(variable, value)
    settings = Settings()
    grace = float(OURS[name]["stop_grace_period"].removesuffix("s"))
    assert grace >= settings.drain_seconds + 2 * settings.timeout_seconds + 10


def test_ports_are_bound_to_this_machine_and_clash_nowhere() -> None:
    taken: list[str] = []
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            host, published, _ = port.split(":")
            assert host == "127.0.0.1"
            if name != "lynceus-gpu":  # the other profile
                taken.append(published)
    assert len(set(taken)) == len(taken)
    assert {"3000", "3001", "9090", "3002"} == set(taken)
    assert {port.split(":")[2] for port in OURS["lynceus-cpu"]["ports"]} == {
        "3000",
        str(Settings.model_fields["grpc_port"].default),
    }


def test_what_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert volume.endswith(":ro")
                assert (DOCKER / source).exists()
            else:
                assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_memory_is_limited_as_in_kubernetes(device: str) -> None:
    patch = document(KUBERNETES / "overlays" / device / "resources.yaml")
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    service = OURS[f"lynceus-{device}"]
    memory = service["deploy"]["resources"]["limits"]["memory"]
    assert re.fullmatch(r"\d+G", memory)  # of 2**30 bytes here
    assert f"{memory}i" == limits["memory"]
    if device == "cpu":  # as many workers: there by the limit of cores
        assert service["environment"]["LYNCEUS_WORKERS"] == limits["cpu"]


@pytest.mark.parametrize("name", OURS)
def test_there_are_files_for_every_connection(name: str) -> None:
    files = OURS[name]["ulimits"]["nofile"]
    assert files["soft"] == files["hard"] >= 2 * (Settings.model_fields["max_connections"].default + SPARE)


def test_no_secret_is_committed() -> None:
    for service in SERVICES.values():
        assert not [name for name in service.get("environment", {}) if re.search("PASSWORD|TOKEN|KEY", name)]


def test_prometheus_finds_the_service_by_its_alias() -> None:
    job, workers = document(DOCKER / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["lynceus:3000"]}]
    (found,) = workers["dns_sd_configs"]
    assert (found["names"], found["port"]) == (
        ["lynceus-jobs"],
        Settings.model_fields["job_metrics_port"].default,
    )
