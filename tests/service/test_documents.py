"""The documents say what the code says; licenses go with the weights."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from models.weights import Entry, standard_catalogue
from service.documents import LICENSES, ROOT, fill, written
from service.settings import Settings
from tests.deploy.files import stages

ENTRIES = list(standard_catalogue())
FILES = written()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_committed_is_what_the_code_says(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path], "run `make docs`"


def test_the_text_around_a_part_stays() -> None:
    page = "a\n<!-- code:one -->\nold\n<!-- /code:one -->\nb\n"
    assert fill(page, "one", "new\n") == "a\n<!-- code:one -->\nnew\n<!-- /code:one -->\nb\n"
    assert fill(fill(page, "one", "new"), "one", "old") == page
    for wrong in ("no marks", page + page, "<!-- /code:one --><!-- code:one -->"):
        with pytest.raises(ValueError, match="marks"):
            fill(wrong, "one", "new")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_model_has_a_license_that_travels(entry: Entry) -> None:
    name, terms = entry.name, entry.license
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert terms
    assert f"\n{name}\n    license: {terms}\n    source: " in notice
    third_party = any(file.source != "repo" for file in entry.files.values())
    if third_party:  # its notice goes with every copy
        assert (LICENSES / f"{name}.txt").read_text(encoding="utf-8").strip() in notice
    if name in Settings.model_fields["models"].default:  # the container has it
        runtime = " ".join(rest for _, rest in stages()["runtime"][1])
        (label,) = re.findall(r'image\.licenses="([^"]+)"', runtime)
        assert terms in label.split(" AND ")


def test_notice_is_in_the_container_and_in_the_bento() -> None:
    copied = [rest.split() for name, rest in stages()["app"][1] if name == "COPY"]
    assert ["NOTICE", "./"] in copied
    assert ["LICENSE", "./"] in copied
    bento = (ROOT / "bentofile.yaml").read_text(encoding="utf-8")
    assert '  - "/NOTICE"\n' in bento
    assert '  - "/LICENSE"\n' in bento


def test_a_license_text_is_of_a_model() -> None:
    assert {path.stem for path in LICENSES.iterdir()} <= {entry.name for entry in ENTRIES}


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]


def test_every_decision_is_in_the_index() -> None:
    page = (ROOT / "DECISIONS.md").read_text(encoding="utf-8")
    index, _, entries = page.partition("\n## ")
    listed = re.findall(r"^- (\d{4}-\d\d-\d\d .+)$", index, re.MULTILINE)
    assert listed == re.findall(r"^### (\d{4}-\d\d-\d\d .+)$", "\n## " + entries, re.MULTILINE)
