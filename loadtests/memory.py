"""Does the service leak? Its memory after the first 1,000 requests, and after many more.

python -m loadtests.memory --requests 20000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from loadtests import loadgen
from loadtests.server import Server
from loadtests.tasks import TASKS, bodies_of, check_answer, images_in

SETTLED = 1000  # requests until caches and allocators have what they need


def main() -> int:
    """Prints both figures and their ratio; 1 where it is over `--most` or a request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="classify")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: the task's")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--most", type=float, default=1.1, help="largest ratio that passes")
    options = parser.parse_args()
    work = TASKS[options.task]
    images = images_in(options.images or work.images)
    models = ",".join(work.models)
    with bodies_of(work, images) as bodies, Server({"LYNCEUS_MODELS": models}) as server:
        check_answer(server.address, work, bodies[0])
        figures = []
        errors = 0
        for count in (SETTLED, max(1, options.requests - SETTLED)):
            load = loadgen.run(
                server.address,
                work.path,
                bodies,
                content_type=work.content_type,
                connections=options.connections,
                requests=count,
                seconds=3600.0,
            )
            errors += sum(load.errors.values())
            figures.append(server.resident_bytes())
    ratio = figures[1] / figures[0]
    mib = [figure / 2**20 for figure in figures]
    print("| requests | resident MiB, all processes | ratio | errors |\n| --- | --- | --- | --- |")
    print(f"| {SETTLED} | {mib[0]:.0f} | 1.00 | |")
    print(f"| {options.requests} | {mib[1]:.0f} | {ratio:.3f} | {errors} |")
    return int(ratio > options.most or errors > 0)


if __name__ == "__main__":
    sys.exit(main())
