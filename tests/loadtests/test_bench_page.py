"""The tables of docs/benchmarks.md are written anew between their marks, and nothing else is."""

from __future__ import annotations

import pytest

from loadtests.bench import COMMANDS, PAGE, fill, names_in

TEXT = """before

<!-- bench:a -->
old
<!-- /bench:a -->

between

<!-- bench:b -->
<!-- /bench:b -->
after
"""


def test_only_what_stands_between_the_marks_changes() -> None:
    filled = fill(TEXT, "a", "| new |\n")
    assert filled == TEXT.replace("old", "| new |")
    assert fill(filled, "a", "old") == TEXT
    assert fill(TEXT, "b", "x").endswith("<!-- bench:b -->\nx\n<!-- /bench:b -->\nafter\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- bench:a -->",
        "<!-- /bench:a -->\n<!-- bench:a -->",
        TEXT + "<!-- bench:a -->\n<!-- /bench:a -->",
    ],
)
def test_marks_that_are_missing_or_twice_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bench:a"):
        fill(text, "a", "new")


def test_names_are_found_in_order() -> None:
    assert names_in(TEXT) == ["a", "b"]


def test_the_page_has_marks_for_what_can_be_measured() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = names_in(text)
    assert names
    assert set(names) <= set(COMMANDS)
    for name in names:
        fill(text, name, "")
