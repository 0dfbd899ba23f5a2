"""Decoding mutated files in child processes; and that the children's deaths and excesses are seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from loadtests.fuzz import decode_fuzz
from loadtests.fuzz.decode_fuzz import Case
from tests.paths import ROOT


def test_two_thousand_decodes() -> None:
    command = [sys.executable, "-m", "loadtests.fuzz", "decode", "--count", "2000", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2000 decodes" in done.stdout


def test_cases_are_made_anew_from_their_numbers() -> None:
    assert decode_fuzz.case(3, 5) == decode_fuzz.case(3, 5)
    assert decode_fuzz.case(3, 5) != decode_fuzz.case(3, 6)
    assert len({decode_fuzz.case(3, number).data for number in range(100)}) > 60


def test_what_goes_wrong_in_a_child_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    number = -1
    kept: list[bytearray] = []

    def case(_: int, asked: int, kinds: object) -> Case:
        nonlocal number
        number = asked
        return Case(b"", None, None)

    def decode(*_: object, **__: object) -> None:
        match number:
            case 2:
                os.kill(os.getpid(), signal.SIGKILL)
            case 4:
                raise KeyError("x")
            case 6:
                kept.append(bytearray(b"x" * 30_000_000))
            case 8:
                os._exit(3)

    monkeypatch.setattr(decode_fuzz, "case", case)
    monkeypatch.setattr(decode_fuzz, "plan", decode)
    monkeypatch.setattr(decode_fuzz, "decode", decode)
    found = dict(decode_fuzz.batch(0, 0, 10))
    assert sorted(found) == [2, 4, 6, 8]
    assert "SIGKILL" in found[2]
    assert "KeyError" in found[4]
    assert "0 planned" in found[6]
    assert "status 3" in found[8]
