"""The documentation's examples run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser

from tests.paths import ROOT
from tests.server import Server

pytestmark = pytest.mark.e2e
PAGE = ROOT / "docs" / "clients.md"
PAGES = sorted(
    path for folder in ("", "docs", "loadtests", "models/weights") for path in (ROOT / folder).glob("*.md")
)
UI = ROOT / "service" / "web" / "ui"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
PYTHON = [block for language, block in BLOCKS if language == "python"]
SHOWS = ["German shepherd", "Eileen 0.0", "succeeded 2", "INVALID_ARGUMENT media_type", "German shepherd"]
CASES = list(zip(PYTHON, SHOWS, strict=True))


def blocks(language: str, server: Server) -> list[str]:
    """What the page has of a language, with the server's own address."""
    return [
        block.replace("localhost:3000", server.url.removeprefix("http://"))
        for name, block in BLOCKS
        if name == language
    ]


def output(folder: Path, *command: str) -> str:
    """What a program prints that is given the photographs of the page in its folder."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, dog: bytes) -> Path:
    (tmp_path / "dog.jpg").write_bytes(dog)
    for sample, name in (("cat", "cat"), ("astronaut", "eileen"), ("astronaut", "someone")):
        shutil.copy(UI / f"sample-{sample}.jpg", tmp_path / f"{name}.jpg")
    return tmp_path


@pytest.mark.parametrize(("block", "shows"), CASES, ids=["httpx", "identify", "job", "grpc", "aio"])
def test_python(
    server: Server, dog: bytes, block: str, shows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    face = (UI / "sample-astronaut.jpg").read_bytes()
    given = {"HTTP_URL": server.url, "GRPC_ADDRESS": server.grpc_address, "IMAGE": dog, "FACE": face}
    exec(compile(block, Path(PAGE).name, "exec"), {"__name__": "client", **given})  # noqa: S102 (our own page)
    assert shows in capsys.readouterr().out


def test_curl(server: Server, folder: Path) -> None:
    plain, gallery = blocks("sh", server)
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    shown = output(folder, "bash", "-ec", plain.replace("curl ", "curl --fail-with-body -sS "))
    assert shown.count("German shepherd") == 2
    assert shown.count('"results"') == 1
    assert "cat" in shown.rpartition("labels")[2]
    assert cv2.imread(str(folder / "drawn.jpg")) is not None
    assert '"name":"Eileen"' in output(folder, "bash", "-ec", gallery)


def test_javascript_in_node(server: Server, folder: Path) -> None:
    (block,) = blocks("js", server)
    before = 'import { openAsBlob } from "node:fs";\nconst photo = await openAsBlob("dog.jpg");\n'
    (folder / "client.mjs").write_text(before + block)
    shown = output(folder, "node", "--no-warnings", "client.mjs")
    assert "German shepherd" in shown
    assert "parameter_invalid: top_k" in shown


def test_javascript_in_a_browser(server: Server, browser: Browser) -> None:
    (block,) = blocks("js", server)
    page = browser.new_page()
    shown: list[str] = []
    page.on("console", lambda message: shown.append(message.text))
    page.goto(server.url)
    before = 'const photo = await (await fetch("ui/sample-cat.jpg")).blob();\n'
    page.evaluate(f"async () => {{\n{before}{block}\n}}")
    assert any("cat" in line for line in shown)
    assert any(line.startswith("parameter_invalid: top_k") for line in shown)
    page.close()


def test_java(server: Server, folder: Path) -> None:
    (block,) = blocks("java", server)
    (folder / "Classify.java").write_text(block)
    assert "German shepherd" in output(folder, "java", "Classify.java", "dog.jpg")


def test_go(server: Server, folder: Path) -> None:
    (block,) = blocks("go", server)
    (folder / "classify.go").write_text(block)
    assert "German shepherd" in output(folder, "go", "run", "classify.go", "dog.jpg")


def film(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    height, width, _ = frames[0].shape
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()


def test_a_video_is_drawn_in(server: Server, dog: bytes, tmp_path: Path) -> None:
    """Every frame comes back, in order, with boxes where the dog is and none where nothing is."""
    photo = cv2.imdecode(np.frombuffer(dog, np.uint8), cv2.IMREAD_COLOR)
    photo = cv2.resize(photo, (384, 288), interpolation=cv2.INTER_AREA)
    frames = [photo if index % 2 else np.full_like(photo, 128) for index in range(12)]
    film(tmp_path / "street.avi", frames)
    files = [tmp_path / "street.avi", tmp_path / "drawn.avi"]
    command = [sys.executable, "-m", "docs.examples.detect_stream", *files, server.grpc_address]
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    drawn = cv2.VideoCapture(str(tmp_path / "drawn.avi"))
    for index in range(len(frames)):
        there, frame = drawn.read()
        assert there
        green = ((frame[..., 1] > 170) & (frame[..., 0] < 60) & (frame[..., 2] < 60)).sum()
        assert (green > 500) == bool(index % 2), f"frame {index} has {green} green pixels"
    assert not drawn.read()[0]


def sections(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, section = target.partition("#")
        if "://" not in target:
            other = page.parent / name if name else page
            assert other.exists(), target
            assert not section or section in sections(other), target
