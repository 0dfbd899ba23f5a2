"""The built Bento serves from its own folder: built without a network, served where there is no checkout.

The wheel holds the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from service import __version__
from tests.paths import ROOT
from tests.server import Server

pytestmark = pytest.mark.e2e

NOWHERE = "http://127.0.0.1:9"
"""The discard port: connections to it are refused at once."""


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bento of this checkout."""
    home = tmp_path_factory.mktemp("bentoml")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LYNCEUS_")}
    environment |= {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE)
    environment |= {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0", "UV_INDEX_URL": NOWHERE}
    command = [sys.executable, "-m", "bentoml", "build", "--version", "test"]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return home / "bentos" / "lynceus" / "test"


@pytest.fixture(scope="module")
def served(bento: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The Bento's server, started where there is nothing; with the weights that the Bento holds itself."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    server = Server(
        elsewhere / "log",
        target=str(bento),
        folder=elsewhere,
        environment={"PYTHONPATH": ""},
        models="lenet5,yolo-person",
        weights_dir=elsewhere / "none",
        workers=1,
        drain_seconds=0,
    )
    try:
        server.wait(400)
        yield server
    finally:
        server.stop()


def sources(folder: Path) -> set[str]:
    """Paths of what the service is made of, relative to the folder."""
    files = [path for name in ("service", "models") for path in (folder / name).rglob("*")]
    return {
        path.relative_to(folder).as_posix()
        for path in files
        if path.is_file()
        and path.suffix not in (".pyc", ".pyi", ".proto")
        and not {"training", "quantize"} & set(path.parts)
    }


def test_a_bento_holds_the_service_and_nothing_else(bento: Path) -> None:
    held = {
        path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*") if path.is_file()
    }
    fetched = {path for path in held if path.startswith("build/weights/")}  # as many as `make bento` fetched
    assert held - fetched - sources(ROOT) == {"LICENSE", "NOTICE", "bentofile.yaml", "requirements-gpu.lock"}
    assert sources(ROOT) <= held
    assert (bento / "README.md").read_text() == (ROOT / "README.md").read_text()


def test_a_wheel_holds_what_a_bento_does_and_the_licenses(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (metadata,) = (opened.read(name).decode() for name in names if name.endswith("/METADATA"))
    assert sources(ROOT) <= names
    assert {name.rpartition("/")[2] for name in names if ".dist-info/" in name} >= {"LICENSE", "NOTICE"}
    assert not [name for name in names if not name.startswith(("service/", "models/", "lynceus-"))]
    assert f"Version: {__version__}\n" in metadata
    assert re.search(r"^Requires-Dist: openvino$", metadata, re.MULTILINE)
    assert re.search(r"^Requires-Dist: torch==.*extra == 'gpu'$", metadata, re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    """Packages and versions; markers are written in more than one way."""
    return dict(re.findall(r"^([\w.-]+)==([\w.+!-]+)", lock, re.MULTILINE))


def test_an_image_of_it_installs_what_is_locked_and_finds_its_weights(bento: Path) -> None:
    locked = (ROOT / "requirements-gpu.lock").read_text()
    installed = (bento / "env" / "python" / "requirements.txt").read_text()
    assert pins(installed) == pins(locked)
    assert pins(locked).keys() > {"openvino", "torch"}
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text()
    assert "python:3.11" in dockerfile
    assert "LYNCEUS_WEIGHTS_DIR=/home/bentoml/bento/src/build/weights" in dockerfile


def test_it_serves_from_its_own_folder(bento: Path, served: Server, dog: bytes) -> None:
    workers = psutil.Process(served.process.pid).children()
    assert [Path(worker.cwd()) for worker in workers] == [bento / "src"]
    with httpx.Client(base_url=served.url, timeout=120) as client:
        labels = client.post("/v1/classify", content=dog).raise_for_status().json()
        assert labels["model"] == "lenet5"
        assert labels["image"] == {"width": 768, "height": 576}
        found = client.post("/v1/detect", content=dog).raise_for_status().json()
        assert found["model"] == "yolo-person"
        ready = {model["name"]: model["ready"] for model in client.get("/v1/models").json()["models"]}
        assert ready == {"lenet5": True, "yolo-person": True}


def test_it_ends_as_the_service_does(served: Server) -> None:
    assert served.stop() == 0
