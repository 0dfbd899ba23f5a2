"""Records the golden answers of a checkout whose answers are right.

    git worktree add ../before COMMIT && python -m tests.golden --folder ../before

A change that is meant to answer otherwise records anew what it changes (`--only PATTERN`, of the requests'
names), and the difference of the stored files shows what it is.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from tests.golden.record import KEYS_SETTINGS, SETTINGS, load, record, record_keys, save
from tests.paths import ROOT
from tests.server import Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT, help="the checkout whose service is asked")
    parser.add_argument("--only", default="", help="a regular expression of requests' names")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "log", folder=arguments.folder.resolve(), **SETTINGS)
        try:
            server.wait(300)
            found = record(server.url, server.grpc_address)
        finally:
            server.stop()
        tiny = Server(Path(folder) / "keys", folder=arguments.folder.resolve(), **KEYS_SETTINGS)
        try:
            tiny.wait(300)
            found["keys"] = record_keys(tiny.url, tiny.grpc_address)
        finally:
            tiny.stop()
    wanted = re.compile(arguments.only)
    for group, answers in found.items():
        kept = load(group)
        save(group, kept | {name: answer for name, answer in answers.items() if wanted.search(name)})


main()
