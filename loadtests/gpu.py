"""How much of a GPU is used: the model alone, the whole work in one process, and the service, by batch size.

    python -m loadtests.gpu --batches 1,8,32 --seconds 10
    python -m loadtests.gpu --device cpu --tasks classify --batches 2 --seconds 2

In images per second. The model: images that are decoded already, again and again, in as many threads as the
service has slots: upload, network and post-processing. In one process: with decoding, on all cores
(`limit.py`). Served: over HTTP, by one worker whose largest batch is the given one. A low share of the model
with a high share of the process means that decoding is what limits.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from loadtests import loadgen
from loadtests.limit import Layout, Limit
from loadtests.server import Server
from loadtests.tasks import LIMITED, Work, bodies_of, check_answer, images_in, requests_of


@dataclass(frozen=True, slots=True)
class Row:
    """One task at one batch size, in images per second."""

    task: str
    batch: int
    model: float
    process: float
    served: float
    errors: int = 0


def model_rates(
    work: Work, images: Sequence[Path], batches: Sequence[int], slots: int, seconds: float
) -> dict[int, float]:
    """Requests per second of prepared batches of each size; to be run in a process of its own."""
    from loadtests.chains import make_chain  # here, since the parent must not use the device

    chain = make_chain(work, len(os.sched_getaffinity(0)), batches)
    requests = [[image.read_bytes() for image in request] for request in requests_of(work, images)]
    rates = {}
    for batch in batches:
        prepared = [chain.prepare(request) for request in islice(cycle(requests), batch)]
        chain.answer(prepared)
        rates[batch] = batch * rate_of(chain.answer, prepared, slots, seconds)
    return rates


def rate_of(work: Callable[[Any], object], item: Any, threads: int, seconds: float) -> float:
    """Calls per second, from so many threads at once for so long."""
    begin = time.monotonic()

    def calls(_: int) -> int:
        done = 0
        while time.monotonic() < begin + seconds:
            work(item)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(calls, range(threads)))
    return total / (time.monotonic() - begin)


def served_rate(
    work: Work, images: Sequence[Path], batch: int, connections: int, seconds: float, rounds: int
) -> tuple[float, int]:
    """Requests per second of the middle round, and the errors of all rounds, of one worker."""
    settings = {
        "LYNCEUS_MODELS": ",".join(work.models),
        "LYNCEUS_MAX_BATCH": str(batch),
        "LYNCEUS_WORKERS": "1",
        "LYNCEUS_DRAIN_SECONDS": "0",
    }
    with bodies_of(work, images) as bodies, Server(settings) as server:
        check_answer(server.address, work, bodies[0])
        loads = [
            loadgen.run(
                server.address,
                work.path,
                bodies,
                content_type=work.content_type,
                connections=connections,
                seconds=seconds,
                warmup=min(2.0, seconds / 4),
            )
            for _ in range(rounds)
        ]
    errors = sum(sum(load.errors.values()) for load in loads)
    return statistics.median_low([load.rps for load in loads]), errors


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| task | batch | model/s | in process/s | served/s | served / process | served / model | errors |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.task} | {row.batch} | {row.model:.0f} | {row.process:.0f} | {row.served:.0f} "
        f"| {100 * row.served / row.process:.0f}% | {100 * row.served / row.model:.0f}% | {row.errors} |"
        for row in rows
    ]
    return "\n".join(lines)


def measure(name: str, work: Work, options: argparse.Namespace) -> list[Row]:
    """One task at every batch size. The device is released before the next size uses it."""
    images = images_in(options.images or work.images)
    batches = [size for size in map(int, options.batches.split(",")) if size <= work.most]
    slots = 1 if options.device == "cpu" else 2
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        model = pool.apply(model_rates, (work, images, batches, slots, options.seconds))
    layout = Layout(1, len(os.sched_getaffinity(0)))
    with Limit([(work, images)], layout, batches) as limit:
        process = {batch: limit.measure(batch, options.seconds) for batch in batches}
    rows = []
    for batch in batches:
        connections = options.connections or max(16, 4 * batch)
        served, errors = served_rate(work, images, batch, connections, options.seconds, options.rounds)
        count = len(work.fields)  # of a request
        rows.append(Row(name, batch, count * model[batch], count * process[batch], count * served, errors))
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(LIMITED), help="separated by commas")
    parser.add_argument("--model", help="a model of the catalogue, for one task; default: the task's")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try this program")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--connections", type=int, help="default: four batches, at least 16")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: the task's")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure")
    parser.add_argument("--rounds", type=int, default=3, help="of the service, whose middle one counts")
    options = parser.parse_args()
    tasks = options.tasks.split(",")
    if not set(tasks) <= set(LIMITED) or (options.model and len(tasks) > 1):
        parser.error(f"--tasks: of {', '.join(LIMITED)}; one of them with --model")
    os.environ["LYNCEUS_DEVICE"] = options.device  # of all the processes that are started here
    rows = []
    for name in tasks:
        work = LIMITED[name]
        rows += measure(name, replace(work, model=options.model or work.model), options)
    print(table(rows))


if __name__ == "__main__":
    main()
