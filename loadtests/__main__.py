"""Starts the service, sends it the load of `slo.toml`, judges and stops it; exits 1 where a limit was passed.

    python -m loadtests
    python -m loadtests --shape spike --seconds 120

The machine's ceiling is measured in process before, and what one request takes while the run lasts.
`build/loadtest` takes the record and a report.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path

from loadtests import command
from loadtests.asks import work_of
from loadtests.opened import Opened, run
from loadtests.record import Record, ceiling_of
from loadtests.reference import Reference, refreshed
from loadtests.report import page
from loadtests.server import Server, exit_on_sigterm
from loadtests.shapes import SHAPES
from loadtests.verdict import SLO, Slo, judge, lateness, read_slo, sentence, table


def measured(slo: Slo, file: Path, options: argparse.Namespace) -> Record:
    """A run with measurements of the machine, on a server of its own or a running one."""
    # a model that is asked for by name must not become its task's default
    tasks = sorted(slo.mix, key=lambda task: bool(work_of(task).asked))
    models = list(dict.fromkeys(model for task in tasks for model in work_of(task).models))
    with contextlib.ExitStack() as stack:
        if options.server_url:
            address, grpc_address = options.server_url.removeprefix("http://").rstrip("/"), options.grpc
        else:
            settings = {"LYNCEUS_MODELS": ",".join(models), "LYNCEUS_DRAIN_SECONDS": "0"}
            server = stack.enter_context(Server(settings))
            address, grpc_address = server.address, server.grpc_address
        reference = stack.enter_context(Reference(list(slo.mix), options.reference_seconds))
        print("measuring what the machine can do in process ...", file=sys.stderr, flush=True)
        before = reference.measure()
        ceiling = ceiling_of(slo.mix, before)
        seconds = options.seconds or SHAPES[options.shape].seconds
        if options.requests:
            seconds = options.requests / (slo.load * ceiling)
        load = Opened(file, options.shape, seconds, ceiling, options.seed)
        offered = slo.load * ceiling
        print(
            f"{options.shape}, {seconds:.0f} s: {offered:.1f} requests/s, "
            f"{100 * slo.load:.0f}% of {ceiling:.1f} ...",
            file=sys.stderr,
            flush=True,
        )
        with reference.probing(min(2.0, max(0.2, seconds / 60))) as probes:
            record = run(load, slo, address, grpc_address, before)
        return replace(record, paces=refreshed(before, probes))


def main() -> int:
    """Prints the table and the verdict."""
    parser = command.parser(__doc__)
    parser.add_argument("--shape", choices=[*SHAPES], default="steady")
    parser.add_argument("--seconds", type=float, default=0.0, help="of the shape; default: its own")
    parser.add_argument("--requests", type=int, default=0, help="as long as so many take at the load")
    parser.add_argument("--slo", type=Path, default=SLO)
    parser.add_argument("--output", type=Path, default=Path("build/loadtest"), help="folder of the report")
    parser.add_argument("--reference-seconds", type=float, default=1.5, help="for each in-process figure")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals and of the mix")
    parser.add_argument("--server-url", help="a running server on this machine; default: start one")
    parser.add_argument("--grpc", default="127.0.0.1:3001", help="of a running server, its gRPC's host:port")
    options = parser.parse_args()
    slo = read_slo(options.slo)
    exit_on_sigterm()
    record = measured(slo, options.slo.resolve(), options)
    record.write(options.output / "record.json")
    (options.output / "report.html").write_text(page(record, slo), encoding="utf-8")
    reasons = judge(record, slo)
    print(table(record, slo), lateness(record), f"report: {options.output / 'report.html'}", sep="\n\n")
    print(f"\n{sentence(reasons)}")
    return int(bool(reasons))


if __name__ == "__main__":
    sys.exit(main())
