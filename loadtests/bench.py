"""Repeats the measurements of docs/benchmarks.md and rewrites its tables; the text around them is kept.

    python -m loadtests.bench
    python -m loadtests.bench --only served,soak

A table stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`, with its commands, day and machine.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

from loadtests.command import parser as parser_of
from loadtests.opened import machine
from loadtests.server import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = "docs/capacity.svg"

COMMANDS: dict[str, tuple[str, ...]] = {
    "served": tuple(
        f"loadtests.ceiling --task {task} --connections {connections}"
        for task, connections in (
            ("classify", "1,16,64"),
            ("detect", "16"),
            ("embed", "16"),
            ("verify", "16"),
            ("stylize", "1,4"),
        )
    ),
    "grpc": ("loadtests.ceiling --transports http,grpc --connections 1,16 --seconds 8",),
    "layout": ("loadtests.limit",),
    "detectors": ("loadtests.detectors",),
    "capacity": (f"loadtests.capacity --plot {PLOT}",),
    "overload": ("loadtests.overload",),
    "soak": ("loadtests.soak --minutes 2 --overload 1 --after 1",),
    "profile": ("loadtests",),
}


def fill(text: str, name: str, content: str) -> str:
    """The text with what stands between a name's marks replaced.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the marks {begin} and {end} must stand there once each, in this order")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content.strip()}\n{end}{rest.partition(end)[2]}"


def names_in(text: str) -> list[str]:
    """The tables that a text has marks for, in its order."""
    return re.findall(r"^<!-- bench:(\S+) -->$", text, re.MULTILINE)


def measured(commands: Sequence[str], day: str, on: str) -> str:
    """What the commands print, below each its own line.

    Raises:
        RuntimeError: one failed other than by its verdict.
    """
    parts = []
    for command in commands:
        print(f"python -m {command}", file=sys.stderr, flush=True)
        ended = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if ended.returncode not in (0, 1) or "|" not in ended.stdout:
            raise RuntimeError(f"python -m {command} ended with {ended.returncode}")
        parts.append(f"`python -m {command}` ({day}, {on}):\n\n{ended.stdout.strip()}")
    return "\n\n".join(parts)


def main() -> None:
    """Writes the page after each table, so that what was measured is kept when a later one fails."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", help=f"of {', '.join(COMMANDS)}; default: all that the page has marks for")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else names_in(PAGE.read_text(encoding="utf-8"))
    if unknown := set(names) - set(COMMANDS):
        parser.error(f"nothing measures {', '.join(sorted(unknown))}")
    for name in names:
        fill(PAGE.read_text(encoding="utf-8"), name, "")  # before hours of measuring
    for name in names:
        content = measured(COMMANDS[name], time.strftime("%Y-%m-%d"), machine())
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(fill(text, name, content), encoding="utf-8")


if __name__ == "__main__":
    main()
