"""The catalogue and the store: what is checked, what a failure says, what is kept."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from models import registry, weights
from models.errors import ModelUnknown, WeightsError
from models.weights import CATALOGUE, COMMITTED, Catalogue, Store

BODY = b"some weights"
DIGEST = hashlib.sha256(BODY).hexdigest()


def catalogue(folder: Path, sha256: str = DIGEST, **lines: str) -> Path:
    spec = {"source": "file", "path": "net.bin"} | lines
    table = "\n".join(f'{key} = "{value}"' for key, value in spec.items())
    path = folder / "own.toml"
    path.write_text(
        '[net]\ntask = "classify"\nbuilder = "lenet5"\nlicense = "MIT"\n'
        f'[net.files.weights]\nsha256 = "{sha256}"\n{table}\n'
    )
    return path


def test_an_operators_file_is_found_beside_its_catalogue(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(BODY)
    entry = Catalogue((CATALOGUE, catalogue(tmp_path)))["net"]
    assert Store(tmp_path / "cache").files(entry)["weights"].read_bytes() == BODY


def test_a_missing_file_names_the_model_the_file_and_the_remedy(tmp_path: Path) -> None:
    entry = Catalogue((catalogue(tmp_path),))["net"]
    with pytest.raises(WeightsError, match=r"model 'net'.*net\.bin is missing: put the file there"):
        Store(tmp_path).files(entry)


def test_a_wrong_file_is_refused_on_every_load(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(BODY)
    entry = Catalogue((catalogue(tmp_path),))["net"]
    store = Store(tmp_path)
    store.files(entry)
    (tmp_path / "net.bin").write_bytes(BODY + b"!")
    with pytest.raises(WeightsError, match=rf"model 'net'.*the catalogue says {DIGEST}"):
        store.files(entry)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"source": "hub"}, "none of repo, pypi, url, file"),
        ({"source": "pypi", "package": "torch"}, "not pinned"),
        ({"source": "url", "url": "http://example.org/net.bin"}, "not https"),
        ({"sha256": "abc"}, "64 hex digits"),
    ],
)
def test_a_wrong_catalogue_is_one_clear_error(tmp_path: Path, lines: dict[str, str], words: str) -> None:
    lines = dict(lines)
    path = catalogue(tmp_path, lines.pop("sha256", DIGEST), **lines)
    with pytest.raises(WeightsError, match=words):
        Catalogue((path,))


def test_an_entry_may_bound_its_batches(tmp_path: Path) -> None:
    path = catalogue(tmp_path)
    assert Catalogue((path,))["net"].max_batch == 0
    path.write_text(path.read_text().replace("[net]", "[net]\nmax_batch = 4", 1))
    assert Catalogue((path,))["net"].max_batch == 4
    path.write_text(path.read_text().replace("= 4", "= -4", 1))
    with pytest.raises(WeightsError, match=r"model 'net'.*max_batch -4"):
        Catalogue((path,))


def test_a_catalogue_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[net")
    with pytest.raises(WeightsError, match=r"own\.toml"):
        Catalogue((tmp_path / "own.toml",))


def test_a_model_named_twice_is_refused(tmp_path: Path) -> None:
    path = catalogue(tmp_path)
    with pytest.raises(WeightsError, match="in the catalogue already"):
        Catalogue((path, path))


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ModelUnknown, match="no model named 'nothing'"):
        Catalogue()["nothing"]


def test_a_fetched_file_is_checked_kept_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = catalogue(tmp_path, source="pypi", package="net==1", path="net/net.bin")
    entry, store = Catalogue((path,))["net"], Store(tmp_path / "cache")

    def download(command: list[str], **_: object) -> None:
        with zipfile.ZipFile(Path(command[-2]) / "net-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("net/net.bin", BODY)

    monkeypatch.setattr(weights.subprocess, "run", download)
    with pytest.raises(WeightsError, match="run `make weights`"):
        store.files(entry)
    assert store.fetch(entry)["weights"].read_bytes() == BODY
    monkeypatch.setattr(weights.subprocess, "run", None)  # a second download would fail
    assert store.fetch(entry)["weights"].read_bytes() == BODY


def test_a_fetched_file_with_another_digest_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "served.bin").write_bytes(b"something else")
    path = catalogue(tmp_path, source="url", url=(tmp_path / "served.bin").as_uri())
    entry, store = Catalogue((path,))["net"], Store(tmp_path / "cache")
    with pytest.raises(WeightsError, match="nothing was kept"):
        store.fetch(entry)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_converted_file_is_made_once_and_anew_where_it_was_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.dat").write_bytes(BODY)
    given = {"path": "net.dat", "convert": "shutil:copyfile"}
    entry = Catalogue((catalogue(tmp_path, **given, converted=DIGEST),))["net"]
    other = Catalogue((catalogue(tmp_path, **given, converted="0" * 64),))["net"]
    store = Store(tmp_path / "cache")
    with pytest.raises(WeightsError, match="converted to sha256"):
        store.files(other)
    assert list(store.cache.iterdir()) == []
    first = store.files(entry)["weights"]
    monkeypatch.setattr(shutil, "copyfile", None)  # a second conversion would fail
    assert store.files(entry)["weights"] == first
    assert (first.suffix, first.read_bytes()) == (".safetensors", BODY)
    monkeypatch.undo()
    first.write_bytes(BODY[:1])
    assert store.files(entry)["weights"].read_bytes() == BODY


def test_every_entry_of_our_catalogue_has_a_builder_and_our_own_files_are_there() -> None:
    store = Store()
    for entry in Catalogue():
        assert callable(registry.builder(entry.builder))
        if all(file.source == "repo" for file in entry.files.values()):
            store.files(entry)
            assert (COMMITTED / entry.files["weights"].path).with_suffix(".md").is_file()


def test_an_unknown_builder_lists_those_there_are() -> None:
    with pytest.raises(WeightsError, match="lenet5"):
        registry.builder("nothing")
