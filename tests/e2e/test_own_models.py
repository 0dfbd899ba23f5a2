"""An operator's own file behind a real server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

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
