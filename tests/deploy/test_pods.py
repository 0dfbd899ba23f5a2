"""What runs in a cluster: restricted pods, ports and probes of the service, an end that is waited for."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service import __version__
from service.settings import Settings
from tests.deploy.files import BASE, DOCKER, KUBERNETES, deployment, document, environment, pod_specs
from tests.paths import ROOT

PODS = pod_specs()
LABELS = deployment()["spec"]["template"]["metadata"]["labels"]


def health_routes() -> tuple[str, ...]:
    """The routes that the composition root answers itself; read, for importing it makes a service."""
    tree = ast.parse((ROOT / "service" / "bento.py").read_text())
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HEALTH"
    ]
    routes: tuple[str, ...] = ast.literal_eval(value)
    return routes


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_pods_keep_to_the_restricted_profile(pod: Any) -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
    allowed |= {"projected", "secret"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not {"privileged", "procMount"} & set(context)
        assert not any("hostPort" in port for port in container["ports"])
    namespace = document(BASE / "namespace.yaml")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"


def state_folder() -> str:
    """Where the image keeps its state."""
    (folder,) = re.findall(r"LYNCEUS_STATE_DIR=(\S+)", (DOCKER / "Dockerfile").read_text())
    return str(folder)


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_only_two_folders_are_written_to_and_no_token_of_the_cluster_is_mounted(pod: Any) -> None:
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts) == {"/tmp", state_folder()}  # noqa: S108
    assert [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume] == [*mounts.values()]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_ports_and_probes_are_those_of_the_service(pod: Any) -> None:
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {"http": 3000, "http1": 3000, "grpc": Settings.model_fields["grpc_port"].default}.items() >= (
        ports.items()
    )
    for probe, route in (("startup", "/readyz"), ("liveness", "/livez"), ("readiness", "/readyz")):
        asked = container[f"{probe}Probe"]["httpGet"]
        assert asked["path"] == route
        assert route in health_routes()
        assert ports.get(asked["port"], asked["port"]) == 3000
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_the_end_is_waited_for(pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = pod["containers"]
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    # requests under way over HTTP, then those over gRPC, may each take their whole time
    needed = before + settings.drain_seconds + 2 * settings.timeout_seconds
    assert pod["terminationGracePeriodSeconds"] >= needed + 10


def variables() -> list[tuple[str, str]]:
    """Every variable of every manifest and patch."""
    found = []
    for path in KUBERNETES.rglob("*.yaml"):
        what = document(path)
        if isinstance(what, dict) and what["kind"] in ("Deployment", "InferenceService"):
            spec = what["spec"]
            pod = spec["template"]["spec"] if "template" in spec else spec["predictor"]
            for container in pod["containers"]:
                found += [(name, value) for name, value in environment(container).items()]
    return found


@pytest.mark.parametrize(("name", "value"), variables())
def test_variables_are_settings_with_good_values(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name.startswith("LYNCEUS_")
    assert name.removeprefix("LYNCEUS_").lower() in Settings.model_fields
    monkeypatch.setenv(name, value)
    Settings()


def test_selectors_find_the_pods() -> None:
    spec = deployment()["spec"]
    selectors = [
        spec["selector"]["matchLabels"],
        document(BASE / "service.yaml")["spec"]["selector"],
        document(BASE / "disruption.yaml")["spec"]["selector"]["matchLabels"],
        document(BASE / "network.yaml")["spec"]["podSelector"]["matchLabels"],
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in PODS["deployment"]["topologySpreadConstraints"]
        ),
    ]
    assert all(selector and selector.items() <= LABELS.items() for selector in selectors)


def test_service_and_policy_lead_to_the_ports_of_the_pod() -> None:
    ports = {port["name"]: port["containerPort"] for port in PODS["deployment"]["containers"][0]["ports"]}
    service = document(BASE / "service.yaml")["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == ports
    (rule,) = document(BASE / "network.yaml")["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == set(ports)


def test_the_monitor_finds_the_service_and_gives_the_job_its_name() -> None:
    monitor = document(KUBERNETES / "components" / "monitoring" / "servicemonitor.yaml")["spec"]
    service = document(BASE / "service.yaml")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "lynceus"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"


def test_one_autoscaler_or_the_other_owns_the_deployment() -> None:
    assert "replicas" not in deployment()["spec"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment()["metadata"]["name"]}
    autoscaler = document(BASE / "autoscaler.yaml")
    keda = KUBERNETES / "components" / "keda"
    scaled = document(keda / "scaledobject.yaml")["spec"]
    assert autoscaler["spec"]["scaleTargetRef"] == scaled["scaleTargetRef"] == target
    removed = document(keda / "without-autoscaler.yaml")
    assert removed.pop("$patch") == "delete"
    assert removed["metadata"]["name"] == autoscaler["metadata"]["name"]
    pods = autoscaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
    assert scaled["triggers"][0]["metadata"]["threshold"] == pods
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (
        autoscaler["spec"]["minReplicas"],
        autoscaler["spec"]["maxReplicas"],
    )


JOBS = KUBERNETES / "components" / "jobs"


def job_worker() -> Any:
    """The pod of the job workers."""
    return document(JOBS / "deployment.yaml")["spec"]["template"]["spec"]


def test_a_job_worker_is_restricted_and_has_what_a_job_needs() -> None:
    pod = job_worker()
    (container,) = pod["containers"]
    for field in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
        assert pod[field] == PODS["deployment"][field]
    assert container["securityContext"] == PODS["deployment"]["containers"][0]["securityContext"]
    (image,) = document(JOBS / "kustomization.yaml")["images"]
    assert container["image"] == image["name"] != PODS["deployment"]["containers"][0]["image"]
    assert image["newTag"] == f"{__version__}-cpu"
    assert container["command"] == ["python", "-m", "service.jobs.worker"]
    assert (ROOT / "service" / "jobs" / "worker.py").is_file()
    (port,) = container["ports"]
    assert port["containerPort"] == Settings.model_fields["job_metrics_port"].default
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/metrics", "port": port["name"]}
    assert environment(container)["LYNCEUS_JOB_THREADS"] == container["resources"]["limits"]["cpu"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # noqa: S108


def test_services_and_job_workers_are_told_of_one_redis_by_a_secret() -> None:
    (serving,) = document(JOBS / "serving.yaml")["spec"]["template"]["spec"]["containers"]
    (worker,) = job_worker()["containers"]
    found = [
        entry["valueFrom"]["secretKeyRef"]
        for container in (serving, worker)
        for entry in container["env"]
        if entry["name"] == "LYNCEUS_JOBS"
    ]
    assert found == [{"name": "lynceus-jobs", "key": "url"}] * 2
    assert "secret generic lynceus-jobs --from-literal=url=" in (JOBS / "kustomization.yaml").read_text()


def test_both_may_reach_redis_and_names_and_nothing_else() -> None:
    policy, patch = document(JOBS / "network.yaml")["spec"], document(JOBS / "serving-egress.yaml")
    assert policy["egress"] == patch["spec"]["egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [[6379], [53, 53]]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert patch["metadata"]["name"] == document(BASE / "network.yaml")["metadata"]["name"]
    (rule,) = policy["ingress"]
    (port,) = job_worker()["containers"][0]["ports"]
    assert [entry["port"] for entry in rule["ports"]] == [port["name"]]


def test_selectors_find_the_job_workers_and_not_the_service() -> None:
    deployment = document(JOBS / "deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    monitor = document(JOBS / "podmonitor.yaml")["spec"]
    for selector in (
        deployment["spec"]["selector"],
        document(JOBS / "disruption.yaml")["spec"]["selector"],
        document(JOBS / "network.yaml")["spec"]["podSelector"],
        monitor["selector"],
    ):
        assert selector["matchLabels"] == labels != LABELS
    assert labels[monitor["jobLabel"]] == "lynceus-jobs", "another job than the one of the rules"
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] == job_worker()["containers"][0]["ports"][0]["name"]
    target = document(JOBS / "scaledobject.yaml")["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_an_overlay_bounds_what_a_pod_takes(overlay: str) -> None:
    patch = document(KUBERNETES / "overlays" / overlay / "resources.yaml")
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    # the service counts its workers by the CPU limit (settings._quota), about 1.2 GB each
    assert limits["cpu"].isdigit()
    assert limits["memory"].endswith("Gi")
    if overlay == "cpu":
        assert int(limits["memory"][:-2]) >= int(limits["cpu"]) + 1
    else:
        assert environment(container)["LYNCEUS_DEVICE"] == "cuda"


def gpu_overlay(name: str) -> Any:
    return document(KUBERNETES / "overlays" / "gpu" / name)


def patched(value: Any, operations: list[Any]) -> Any:
    """What a JSON patch makes of it (RFC 6902: add, replace and remove, as the overlays have them)."""
    value = copy.deepcopy(value)
    for operation in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        part = value
        for name in way:
            part = part[int(name)] if isinstance(part, list) else part[name]
        if last == "-":
            part.append(operation["value"])
        elif operation["op"] == "remove":
            del part[last]
        else:
            assert operation["op"] == "add" or last in part, operation
            part[last] = operation["value"]
    return value


def test_a_gpu_has_targets_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches in the hands of every worker, and nothing about the CPU."""
    whole = patched(document(BASE / "autoscaler.yaml"), gpu_overlay("scaling.yaml"))
    mig = KUBERNETES / "overlays" / "gpu-mig"
    part = patched(whole, document(mig / "scaling.yaml"))
    pod = gpu_overlay("resources.yaml")
    sliced = patched(pod, document(mig / "slice.yaml"))
    for autoscaler, deployed, gibibytes in ((whole, pod, 80), (part, sliced, 10)):
        (container,) = deployed["spec"]["template"]["spec"]["containers"]
        for name, value in environment(container).items():
            monkeypatch.setenv(name, value)
        cores = int(container["resources"]["limits"]["cpu"])
        monkeypatch.setattr("service.settings.core_count", lambda cores=cores: cores)
        settings = Settings()
        workers = settings.worker_count(1, gibibytes << 30)
        (metric,) = autoscaler["spec"]["metrics"]
        assert metric["type"] == "Pods"
        assert int(metric["pods"]["target"]["averageValue"]) == 2 * settings.batch_limit(True) * workers
        # 1.6 GB of the host for torch and every model, and decoded images besides
        memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
        assert memory >= 2.5 * workers
        assert container["resources"]["requests"]["cpu"] == container["resources"]["limits"]["cpu"]
    limits = sliced["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert "nvidia.com/gpu" not in limits


def test_a_node_has_a_driver_and_a_gpu_that_the_image_can_use() -> None:
    affinity = gpu_overlay("resources.yaml")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    def fits(driver: int, capability: tuple[int, int]) -> bool:
        labels = {
            "nvidia.com/cuda.driver-version.major": driver,
            "nvidia.com/gpu.compute.major": capability[0],
            "nvidia.com/gpu.compute.minor": capability[1],
        }

        def holds(wanted: Any) -> bool:
            values, label = [int(value) for value in wanted["values"]], labels[wanted["key"]]
            return label > values[0] if wanted["operator"] == "Gt" else label in values

        return any(all(map(holds, term["matchExpressions"])) for term in terms)

    assert all(fits(580, capability) for capability in ((7, 5), (8, 0), (8, 9), (9, 0), (12, 0)))
    assert not any(fits(*node) for node in ((570, (9, 0)), (580, (7, 0)), (580, (6, 1))))


def test_the_command_of_a_gpu_is_the_images_behind_mps(tmp_path: Path) -> None:
    (container,) = gpu_overlay("resources.yaml")["spec"]["template"]["spec"]["containers"]
    shell, option, script = container["command"]
    assert (shell, option) == ("sh", "-c")
    (command,) = re.findall(r"^CMD (\[.*\])$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)[-1:]
    assert script.endswith("exec " + " ".join(ast.literal_eval(command)))
    assert "compute" in (DOCKER / "Dockerfile").read_text().partition("NVIDIA_DRIVER_CAPABILITIES=")[2][:20]
    (tmp_path / "bentoml").write_text('#!/bin/sh\necho "$@"; env\n')
    (tmp_path / "bentoml").chmod(0o755)
    script = script.replace("=/tmp/", f"={tmp_path}/")
    for there in (False, True):
        if there:
            (tmp_path / "nvidia-cuda-mps-control").symlink_to("/bin/true")
        told = subprocess.run(
            [shell, option, script],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.startswith("serve service.bento:Lynceus")
        assert ("no MPS" in told.stderr) is not there
        assert (f"CUDA_MPS_PIPE_DIRECTORY={tmp_path}/nvidia-mps\n" in told.stdout) is there
