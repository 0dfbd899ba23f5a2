"""Sends hostile requests to a server of its own and judges what they cost; exits 1 where one costs too much.

    python -m loadtests.hostile
    python -m loadtests.hostile --quick
    python -m loadtests.hostile --case 'json infer' --workers 1 --json build/hostile.json

Each case is sent alone (CPU seconds, memory), with a deadline and disconnected (what goes on afterwards), and
eight times at once while neighbours request the same model and health every 50 ms (memory of all
processes, longest waits). CPU seconds are those of the server's processes, so other load does not matter;
waits are judged only where the machine is quiet (`--waits`). Files of `../shared/cases` are sent where they
are present.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from loadtests import command
from loadtests.hostile.case import Case
from loadtests.hostile.cases import all_cases
from loadtests.hostile.images import small
from loadtests.hostile.neighbours import Neighbours
from loadtests.hostile.run import Row, Runner, line, pod_limit, table
from loadtests.hostile.send import Http, Target
from loadtests.hostile.watch import Watch
from loadtests.server import Server, exit_on_sigterm

EXPLAIN = 120.0  # seconds
WHOLE = 120.0  # seconds


def main() -> int:
    """Prints the table; 1 where a case missed a bar."""
    options = _parser().parse_args()
    exit_on_sigterm()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = re.compile(options.case)
    cases = [case for case in all_cases() if wanted.search(case.name) and (case.quick or not options.quick)]
    if options.list:
        print(*(case.name for case in cases), sep="\n")
        return 0
    rows: list[Row] = []
    left = cases
    print("\n".join(table([]).splitlines()), flush=True)
    while left:  # a new server where the last one was ended
        left = _serve(left, rows, options)
    failed = [row for row in rows if row.failures]
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([row.json() for row in rows], indent=1), encoding="utf-8")
    print(
        f"\n{len(rows)} cases, {len(failed)} over a bar"
        + "".join(f"\n- {row.case}: {'; '.join(row.failures)}" for row in failed)
    )
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(__doc__, "python -m loadtests.hostile")
    parser.add_argument("--case", default="", help="a regular expression: only cases whose names it finds")
    parser.add_argument("--quick", action="store_true", help="the reduced run of the tests")
    parser.add_argument("--list", action="store_true", help="print the cases' names and send nothing")
    parser.add_argument("--alone", action="store_true", help="without the round of several at once")
    parser.add_argument(
        "--waits", action="store_true", help="judge the neighbours' waits too (a quiet machine)"
    )
    parser.add_argument(
        "--slack", type=float, default=1.0, help="what the bars of CPU seconds are multiplied by"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of the server")
    parser.add_argument("--models", default="", help="models to serve, separated by commas; default: all")
    parser.add_argument("--stop", type=float, default=10.0, help="GiB at which the server is ended")
    parser.add_argument("--json", type=Path, help="a file that takes the figures")
    return parser


def _serve(cases: list[Case], rows: list[Row], options: argparse.Namespace) -> list[Case]:
    """Sends cases to a server until they are done, or until it had to be ended: gives those that are left."""
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="lynceus-hostile-"))
        settings = {
            "LYNCEUS_WORKERS": str(options.workers),
            "LYNCEUS_THREADS": "1",
            "LYNCEUS_DRAIN_SECONDS": "0",
            "LYNCEUS_STATE_DIR": state,
        }
        if options.models:
            settings["LYNCEUS_MODELS"] = options.models
        server = stack.enter_context(Server(settings))
        root = server.processes()[0]
        watch = stack.enter_context(Watch(root.pid, round(options.stop * 2**30), lambda: _end(root)))
        neighbours = None if options.alone else stack.enter_context(Neighbours(server.address, small()))
        target = Target(server.address, server.grpc_address)
        runner = Runner(
            watch,
            target,
            neighbours,
            limit=pod_limit(),
            judge_waits=options.waits,
            quick=options.quick,
            slack=options.slack,
        )
        whole, explained = 0, -math.inf
        for index, case in enumerate(cases):
            # each worker has a process that explains, which ends when idle
            if time.monotonic() - explained > EXPLAIN:
                for _ in range(4 * options.workers):
                    Http("/v1/classify/explain", small)(target)
                runner.settle()
                whole, explained = len(watch.workers()), time.monotonic()
            row = runner.run(case, several=not options.alone)
            if watch.exceeded:
                row.failures.append(f"ended at {options.stop:g} GiB")
            rows.append(row)
            print(line(row), flush=True)
            if watch.exceeded:
                return cases[index + 1 :]
            if row.died:
                _until_whole(watch, whole)
            elif runner.still_works():
                _end(root)  # it would go on through the next case
                return cases[index + 1 :]
    return []


def _end(root: psutil.Process) -> None:
    """Ends the server for good: it takes the machine's memory."""
    with contextlib.suppress(psutil.NoSuchProcess):
        os.killpg(root.pid, signal.SIGKILL)


def _until_whole(watch: Watch, workers: int) -> None:
    """Until every worker that died has been replaced and is ready: it computes nothing any more."""
    end = time.monotonic() + WHOLE
    quiet = 0
    while quiet < 5 and time.monotonic() < end:
        took = watch.cpu()
        time.sleep(0.5)
        quiet = quiet + 1 if len(watch.workers()) >= workers and watch.cpu() - took < 0.05 else 0


if __name__ == "__main__":
    sys.exit(main())
