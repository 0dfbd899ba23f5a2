"""The Dockerfile: what it copies is there, what it runs is this service, and it does not run as root."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from service.settings import Settings
from tests.deploy.files import DOCKER, VERSION, deployment, instructions, stages
from tests.paths import ROOT

STAGES = stages()
IMAGES = ("cpu", "cpu-torch", "gpu")
RUNTIME = [rest for _, rest in STAGES["runtime"][1]]


def of(stage: str, name: str) -> list[str]:
    return [rest for found, rest in STAGES[stage][1] if found == name]


def copied(stage: str) -> dict[str, str]:
    """What a stage has of others: folder -> stage."""
    found = (re.fullmatch(r"--from=(\S+) (\S+) \2", rest) for rest in of(stage, "COPY"))
    return {match[2]: match[1] for match in found if match is not None}


def test_the_images_come_from_one_runtime_and_the_cpu_is_the_default() -> None:
    assert {STAGES[stage][0] for stage in IMAGES} == {"runtime"}
    assert STAGES[list(STAGES)[-1]] == ("cpu", [])


def test_nothing_that_the_image_of_a_cpu_has_was_installed_with_torch() -> None:
    assert copied("cpu") == {"/opt/venv": "packages", "/srv": "networks"}
    assert STAGES["packages"][0] == "${PYTHON_IMAGE}"
    assert not any("gpu" in rest for rest in of("packages", "RUN"))
    assert list(STAGES).index("cpu") < list(STAGES).index(
        "packages-gpu"
    )  # what Debian's buildah would build too


def test_the_locks_say_what_each_set_has() -> None:
    names = {
        lock: set(re.findall(r"^([\w.-]+)==", (ROOT / lock).read_text(), re.MULTILINE))
        for lock in ("requirements.lock", "requirements-gpu.lock", "requirements-dev.lock")
    }
    cpu, gpu, dev = names.values()
    assert cpu < gpu
    assert {"torch", "torchvision", "triton"} <= gpu - cpu
    assert not any(name.startswith("nvidia-c") for name in cpu)
    assert "pytest" in dev - gpu


def test_no_instruction_is_one_that_debians_buildah_refuses() -> None:
    options = {
        option
        for name, rest in instructions()
        if name == "RUN"
        for option in re.findall(r"^--\w+|(?<= )--\w+=type", rest)
    }
    assert {option.partition("=")[0] for option in options} == {"--mount"}


def test_the_base_is_pinned() -> None:
    (base,) = [rest for name, rest in instructions() if name == "ARG" and rest.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11\.\d+-slim-[a-z]+", base)
    assert {origin for origin, _ in STAGES.values()} <= {"${PYTHON_IMAGE}", *STAGES}


@pytest.mark.parametrize("stage", IMAGES)
def test_the_user_is_a_number_and_the_same_as_in_the_pod(stage: str) -> None:
    (user,) = of(stage, "USER")
    pod = deployment()["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert int(user.partition(":")[0]) > 0


def test_what_is_copied_is_there_and_in_the_context() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    taken = {
        path
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for path in rest.split()[:-1]
    }
    assert taken == let_in
    assert all((ROOT / path).exists() for path in let_in)


def test_stages_are_copied_from_stages_that_there_are() -> None:
    named = re.findall(r"--from=(\S+)", " ".join(rest for name, rest in instructions() if name == "COPY"))
    assert set(named) <= set(STAGES)


def test_the_environment_holds_settings_with_good_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, device in (("cpu", "cpu"), ("cpu-torch", "cpu"), ("gpu", "cuda")):
        found = re.findall(r"(LYNCEUS_\w+)=(\S+)", " ".join(of("runtime", "ENV") + of(stage, "ENV")))
        for name, value in found:
            assert name.removeprefix("LYNCEUS_").lower() in Settings.model_fields
            if not value.startswith("$"):  # an argument of the build
                monkeypatch.setenv(name, value)
        assert Settings().device == device


def test_the_models_baked_in_are_the_default_ones() -> None:
    default = "LYNCEUS_MODELS=" + ",".join(Settings.model_fields["models"].default)
    for stage in ("app", "networks", "runtime"):
        assert default in of(stage, "ARG")


def test_the_version_is_the_projects() -> None:
    assert f"VERSION={VERSION}" in of("runtime", "ARG")
    text = (DOCKER / "Dockerfile").read_text() + (DOCKER / "compose.yaml").read_text()
    assert set(re.findall(r"lynceus(?:-torch)?:([\d.]+)-", text)) == {VERSION}


def test_the_ports_are_those_of_the_service() -> None:
    assert of("runtime", "EXPOSE") == [f"3000 {Settings.model_fields['grpc_port'].default}"]
    command = json.loads(of("runtime", "CMD")[0])
    assert command[:3] == ["bentoml", "serve", "service.bento:Lynceus"]
    assert command[command.index("--port") + 1] == "3000"


def test_nothing_writes_outside_tmp_and_no_compiler_is_installed() -> None:
    assert any("BENTOML_HOME=/tmp/" in rest for rest in RUNTIME)
    assert not any("apt-get" in rest or "apk " in rest for _, rest in instructions())
    assert all(
        "--mount=type=cache" in rest for name, rest in instructions() if name == "RUN" and " pip " in rest
    )


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that answers /readyz so; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_tells_ready_from_not_ready(status: int, healthy: bool) -> None:
    command = json.loads(of("runtime", "HEALTHCHECK")[0].partition("CMD ")[2])
    assert command[0] == "python"
    with answering(status) as port:
        command = [sys.executable, *(part.replace(":3000/", f":{port}/") for part in command[1:])]
        assert (subprocess.run(command, check=False, capture_output=True).returncode == 0) is healthy


def built(source: str, target: Path, *options: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc")
    assert compiler is not None
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(target), *options]
    subprocess.run(command, input=source, text=True, check=True)


@pytest.mark.skipif(
    shutil.which("cc") is None or not Path("/usr/bin/ldd").exists(), reason="no C compiler or no ldd"
)
def test_pruning_keeps_what_the_loader_opens_and_nothing_else(tmp_path: Path) -> None:
    site = tmp_path / "site"
    libraries = site / "nvidia" / "cu" / "lib"
    built("int deep(void) {return 1;}", libraries / "libdeep.so")
    built(
        "int deep(void); int near(void) {return deep();}",
        libraries / "libnear.so",
        f"-L{libraries}",
        "-Wl,--no-as-needed,-rpath,$ORIGIN",
        "-ldeep",
    )
    built("int lazy(void) {return 1;}", libraries / "liblazy.so")
    (site / "nvidia" / "cu" / "include").mkdir()
    (site / "nvidia" / "cu" / "include" / "cu.h").write_text("int cu;")
    (site / "triton").mkdir()
    (site / "triton" / "compiler.py").write_text("x = 1")
    (site / "other").mkdir()
    (site / "other" / "kept.py").write_text("x = 1")
    built(
        "int near(void); int torch(void) {return near();}",
        site / "torch" / "_C.cpython-311.so",
        f"-L{libraries}",
        f"-Wl,--no-as-needed,-rpath,$ORIGIN/../nvidia/cu/lib,-rpath-link,{libraries}",
        "-lnear",
    )
    script = [sys.executable, str(DOCKER / "prune_cuda.py"), str(site)]
    subprocess.run(script, check=True, capture_output=True)
    left = {path.name for path in site.rglob("*") if path.is_file()}
    assert left == {"libdeep.so", "libnear.so", "_C.cpython-311.so", "kept.py"}
    assert not (site / "nvidia" / "cu" / "include").exists()
    subprocess.run(script, check=True, capture_output=True)  # once more changes nothing
    assert {path.name for path in site.rglob("*") if path.is_file()} == left


def test_pruning_without_torch_is_refused(tmp_path: Path) -> None:
    script = [sys.executable, str(DOCKER / "prune_cuda.py"), str(tmp_path)]
    done = subprocess.run(script, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no torch" in done.stderr
