"""The report of a GPU, in full and for a moment, on a CPU: every part runs, or says why not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT, SHARED, needs_shared

pytestmark = pytest.mark.e2e


@needs_shared
def test_a_report_of_a_cpu(tmp_path: Path) -> None:
    images = tmp_path / "pack" / "images"
    for kind, folder in (("classify", "imagenet-sample"), ("detect", "photos"), ("faces", "faces")):
        (images / kind).mkdir(parents=True)
        for path in sorted((SHARED / "data" / folder).rglob("*.jpg"))[:8]:
            shutil.copy2(path, images / kind)
    command = [
        sys.executable,
        "-m",
        "loadtests.gpu_report",
        "--device",
        "cpu",
        "--seconds",
        "0.4",
        "--minutes",
        "60",
    ]
    command += ["--out", str(tmp_path / "out"), "--images", str(images)]
    command += ["--parts", "machine,networks,front ends,mps,faces"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert ended.returncode == 0, (report["reasons"], ended.stderr[-2000:])
    assert (tmp_path / "out" / "report.md").read_text() == ended.stdout.removesuffix("\n")
    assert report["machine"]["torch"].partition("+")[0] == report["machine"]["locked torch"]
    assert report["networks"]["efficientnet-lite0"]["1"]["executor"] > 0
    assert report["networks"]["decoding"]["1 processes"] > 0
    apart = report["front ends"]["1 front ends"]
    assert apart["8 images a request"]["images_per_s"] > 0
    assert apart["memory"]["resident_mib"] > 50
    assert 0 < apart["8 images a request"]["device_process_cores"] <= apart["8 images a request"]["cores"]
    assert report["mps"]["skipped"]
    assert report["faces"]["under load"]["errors"] == 0
