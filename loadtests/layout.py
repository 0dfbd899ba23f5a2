"""Which layout of workers, threads, slots and batches serves most here: a grid, measured over HTTP.

python -m loadtests.layout --workers 1,2 --threads 1,2 --slots 1,2 --max-batch 1,4,16
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from loadtests import loadgen
from loadtests.server import Server
from loadtests.tasks import TASKS, bodies_of, check_answer, images_in

SETTINGS = ("workers", "threads", "slots", "max_batch")


def main() -> None:
    """Prints a row for each layout, as they are measured, and the best one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="classify")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: the task's")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each figure")
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--slots", default="1,2")
    parser.add_argument("--max-batch", default="4,16")
    options = parser.parse_args()
    work = TASKS[options.task]
    images = images_in(options.images or work.images)
    connections = [int(count) for count in options.connections.split(",")]
    grid = list(itertools.product(*(getattr(options, name).split(",") for name in SETTINGS)))

    print(
        "| "
        + " | ".join(SETTINGS)
        + " | "
        + " | ".join(f"{c} conn: /s, p99 ms" for c in connections)
        + " | errors |"
    )
    print("|" + " --- |" * (len(SETTINGS) + len(connections) + 1))
    scores: dict[tuple[str, ...], float] = {}
    for values in grid:
        chosen = {f"LYNCEUS_{name.upper()}": value for name, value in zip(SETTINGS, values, strict=True)}
        settings = {**chosen, "LYNCEUS_MODELS": ",".join(work.models), "LYNCEUS_DRAIN_SECONDS": "0"}
        with bodies_of(work, images) as bodies, Server(settings) as server:
            check_answer(server.address, work, bodies[0])
            loads = [
                loadgen.run(
                    server.address,
                    work.path,
                    bodies,
                    content_type=work.content_type,
                    connections=count,
                    seconds=options.seconds,
                    warmup=2.0,
                )
                for count in connections
            ]
        errors = sum(sum(load.errors.values()) for load in loads)
        cells = [*values, *(f"{load.rps:.1f}, {load.p99_ms:.0f}" for load in loads), str(errors)]
        print("| " + " | ".join(cells) + " |", flush=True)
        # The most of a machine is wanted under load; the rate of a single client breaks ties.
        scores[values] = max(load.rps for load in loads) + 0.1 * loads[0].rps
    best = max(scores, key=lambda values: scores[values])
    print("\nbest: " + ", ".join(f"{name} {value}" for name, value in zip(SETTINGS, best, strict=True)))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
