"""One fault: what it is, what it may cost, what it did."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from loadtests.command import head

KINDS = ("ok", "refused", "late", "reset", "hung", "wrong")


@dataclass(slots=True)
class Row:
    """The outcome.

    Attributes:
        name: of the fault.
        counts: of the clients, by kind.
        healthy: seconds until every worker was ready again; None where that has no meaning.
        ended: seconds from the signal to the end, likewise.
        left: what was left behind.
        failures: the bars that it missed.
        note: what else is to be told.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    healthy: float | None = None
    ended: float | None = None
    left: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    note: str = ""

    def expect(self, holds: bool, what: str) -> None:
        """A bar."""
        if not holds:
            self.failures.append(what)

    def judge(self, *, reset: int = 0, hung: int = 0, late: int = 0, refused: bool = True) -> None:
        """The bars of the clients: at most so many of each; no wrong answer, and nothing left behind."""
        counts = self.counts
        self.expect(counts["ok"] > 0, "no right answer at all")
        self.expect(not counts["wrong"], f"{counts['wrong']} wrong")
        for kind, most in (("reset", reset), ("hung", hung), ("late", late)):
            self.expect(counts[kind] <= most, f"{counts[kind]} {kind}, at most {most}")
        self.expect(refused or not counts["refused"], f"{counts['refused']} refused")
        self.expect(not self.left, f"left behind: {', '.join(self.left)}")


Case = Callable[[Row], None]


def line(row: Row) -> str:
    """A line of the table."""

    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.1f} s"

    counts = " | ".join(str(row.counts[kind]) if row.counts else "" for kind in KINDS)
    verdict = "; ".join(row.failures) or "good"
    notes = f"{row.note}; {verdict}" if row.note else verdict
    return f"| {row.name} | {counts} | {seconds(row.healthy)} | {seconds(row.ended)} | {notes} |"


HEAD = head("fault", *KINDS, "healthy after", "ended after", "verdict")


def digit() -> bytes:
    """An image that is quick to classify."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 12:16] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
