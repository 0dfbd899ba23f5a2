"""API keys: which open, how they are told, and how a file of them is rotated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.errors import Unauthenticated
from service.host.auth import LOOK_EVERY, Auth


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def opens(access: Auth, key: str) -> bool:
    try:
        access.check(f"Bearer {key}", None)
        access.check(None, key)
    except Unauthenticated:
        return False
    return True


def write(file: Path, text: str, version: int) -> None:
    file.write_text(text)
    os.utime(file, ns=(version, version))


def test_without_keys_everybody_may_ask() -> None:
    access = Auth()
    assert not access.required
    access.check(None, None)


@pytest.mark.parametrize(
    "given",
    [
        (None, None),
        ("Bearer", None),
        ("Bearer two", None),
        ("Basic one", None),
        ("one", None),
        (None, "ONE"),
        (None, ""),
    ],
)
def test_what_does_not_fit(given: tuple[str | None, str | None]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        Auth(["one"]).check(*given)
    assert "one" not in caught.value.detail.replace("ones", "")


def test_every_configured_key_opens() -> None:
    access = Auth(["one", "zwei-ü"])
    assert opens(access, "one")
    assert opens(access, "zwei-ü")
    access.check("bearer  one ", None)


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    write(file, "# the first\nold\n\n", 1)
    access = Auth(["own"], file, clock)
    write(file, "old\nnew\n", 2)
    assert not opens(access, "new")  # it has not looked yet
    clock.now += LOOK_EVERY
    assert [opens(access, key) for key in ("own", "old", "new", "# the first")] == [True, True, True, False]
    write(file, "new\n", 3)
    clock.now += LOOK_EVERY
    assert [opens(access, key) for key in ("own", "old", "new")] == [True, False, True]


@pytest.mark.parametrize("text", ["", "# none\n", None])
def test_a_file_that_breaks_leaves_the_keys_as_they_were(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "keys", Clock()
    write(file, "one\n", 1)
    access = Auth([], file, clock)
    file.unlink() if text is None else write(file, text, 2)
    clock.now += LOOK_EVERY
    assert opens(access, "one")
    assert not opens(access, "")
    assert "old ones stay" in caplog.text
    assert str(tmp_path) not in caplog.text or text is None


def test_no_key_at_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n# nothing\n")
    with pytest.raises(ValueError, match="no API key"):
        Auth([], tmp_path / "keys")
    with pytest.raises(OSError, match="none"):
        Auth([], tmp_path / "none")
