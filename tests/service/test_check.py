"""The check of an operator's models before there are workers: silent, or one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.weights import sha256_of
from service.check import main
from tests.models.exported.files import Classifier, export


def catalogue(folder: Path, path: Path, labels: str, digest: str = "") -> Path:
    written = folder / "catalogue.toml"
    digest = digest or sha256_of(path)
    written.write_text(
        f'[mine]\ntask = "classify"\nbuilder = "export"\nlicense = "MIT"\noptions = {{labels = {labels}}}\n'
        f'[mine.files.weights]\nsource = "file"\npath = "{path.name}"\nsha256 = "{digest}"\n',
        encoding="utf-8",
    )
    return written


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LYNCEUS_CATALOGUE", str(tmp_path / "catalogue.toml"))
    monkeypatch.setenv("LYNCEUS_DEVICE", "cpu")
    return export(Classifier(2), tmp_path / "mine.onnx", (3, 48, 64))


def test_a_good_model_says_nothing(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue(tmp_path, network, '["a", "b"]')
    assert main(["mine"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("labels", "digest", "message"),
    [
        ('["a"]', "", "model 'mine': 1 labels, but the network has 2 classes"),
        ('["a", "b"]', "0" * 64, "model 'mine': the file"),
        ("7", "", "model 'mine': options.labels is 7, not a list"),
    ],
)
def test_a_bad_one_says_a_line(
    labels: str, digest: str, message: str, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue(tmp_path, network, labels, digest)
    assert main(["mine"]) == 1
    told = capsys.readouterr().out
    assert told.startswith(message)
    assert told.count("\n") == 1


def test_a_network_that_does_not_run_says_a_line(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue(tmp_path, network, '["a", "b"]')

    def broken(*_: object) -> None:
        raise RuntimeError("out of\norder")

    monkeypatch.setattr("service.check.make_executor", broken)
    assert main(["mine"]) == 1
    assert capsys.readouterr().out == "model 'mine': RuntimeError: out of order\n"
