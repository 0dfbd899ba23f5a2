"""An operator's own files behind a real server: served, or told in one line with status 1."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch

from tests.models.exported.files import Classifier, export
from tests.server import Server
from tests.service.test_check import catalogue

pytestmark = pytest.mark.e2e


def test_an_exported_file_is_served(tmp_path: Path, dog: bytes) -> None:
    path = export(Classifier(2), tmp_path / "mine.pt2", (3, 64, 64))
    written = catalogue(tmp_path, path, '["a", "b"]')
    server = Server(tmp_path / "log", models="mine", catalogue=written, workers=1, threads=1, drain_seconds=0)
    try:
        server.wait()
        answer = httpx.post(f"{server.url}/v1/classify?top_k=2", content=dog, timeout=60)
        assert answer.status_code == 200
        assert {label["label"] for label in answer.json()["labels"]} == {"a", "b"}
        card = httpx.get(f"{server.url}/v1/models/mine").json()
        assert (card["executor"], card["details"]["format"]) == ("openvino", "torch.export")
    finally:
        server.stop()


@pytest.mark.parametrize("pickled", [True, False])
def test_a_wrong_file_ends_the_server_with_one_line(pickled: bool, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    if pickled:
        torch.save(Classifier(2).state_dict(), path)
    else:
        export(Classifier(3), path, (3, 64, 64))
    written = catalogue(tmp_path, path, '["a", "b"], size = [64, 64]')
    server = Server(tmp_path / "log", models="mine", catalogue=written, workers=1, threads=1)
    try:
        assert server.process.wait(120) == 1
    finally:
        server.stop()
    lines = [line for line in server.log.read_text().splitlines() if "lynceus cannot start" in line]
    expected = "mine.pt is a pickle" if pickled else "2 labels, but the network has 3 classes"
    assert len(lines) == 1
    assert f"lynceus cannot start: model 'mine': {expected}" in lines[0]
