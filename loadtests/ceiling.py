"""How near the service comes to the machine's limit.

    python -m loadtests.ceiling --task classify --seconds 10 --connections 1,16,64

Limit and service are measured in turn, in one run (limit, served, limit, served ...), and each served round
is divided by the mean of the two limits around it, so that a machine whose speed drifts does not fool anyone.
The table has the median round of each number of connections.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests import loadgen
from loadtests.limit import Limit, sweep
from loadtests.loadgen import Load
from loadtests.server import Server
from loadtests.tasks import TASKS, Work, bodies_of, check_answer, pictures_in


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of the service, and the in-process limit around it, in requests per second."""

    connections: int
    load: Load
    limit: float

    @property
    def ratio(self) -> float:
        """Served per limit."""
        return self.load.rps / self.limit


def measure(
    limit: Limit,
    batch: int,
    address: str,
    work: Work,
    bodies: Sequence[Path],
    connections: Sequence[int],
    seconds: float,
    rounds: int,
) -> list[Round]:
    """Alternates limit and served rounds, each number of connections in turn."""
    results = []
    before = limit.measure(batch, seconds)
    for _ in range(rounds):
        for count in connections:
            load = loadgen.run(
                address,
                work.path,
                bodies,
                content_type=work.content_type,
                connections=count,
                seconds=seconds,
                warmup=min(2.0, seconds / 4),
            )
            after = limit.measure(batch, seconds)
            results.append(Round(count, load, (before + after) / 2))
            before = after
            print(f"{count:4d} connections: {load.rps:7.1f}/s of {results[-1].limit:7.1f}/s", file=sys.stderr)
    return results


def median_round(rounds: Sequence[Round]) -> Round:
    """The round of the middle ratio (the lower of two)."""
    return sorted(rounds, key=lambda each: each.ratio)[(len(rounds) - 1) // 2]


def table(rounds: Sequence[Round]) -> str:
    """Markdown: the median round of each number of connections; errors of all rounds."""
    lines = [
        "| connections | served/s | limit/s | served / limit | p50 ms | p99 ms | errors | batch sizes "
        "| generator's CPU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for count in sorted({each.connections for each in rounds}):
        mine = [each for each in rounds if each.connections == count]
        middle = median_round(mine)
        load = middle.load
        errors: dict[str, int] = {}
        for each in mine:
            for name, number in each.load.errors.items():
                errors[name] = errors.get(name, 0) + number
        ratios = "..".join(f"{100 * ratio:.0f}" for ratio in _ends([each.ratio for each in mine]))
        failed = ", ".join(f"{name}: {number}" for name, number in sorted(errors.items())) or "0"
        lines.append(
            f"| {count} | {load.rps:.1f} | {middle.limit:.1f} | {100 * middle.ratio:.0f}% ({ratios}) "
            f"| {load.p50_ms:.1f} | {load.p99_ms:.1f} | {failed} | {shares(load.batch_sizes)} "
            f"| {100 * load.cpu_seconds / load.seconds:.1f}% of a core |"
        )
    return "\n".join(lines)


def shares(counts: Mapping[int, int]) -> str:
    """Each size and its share of the total."""
    total = sum(counts.values())
    return ", ".join(f"{size}: {100 * n / total:.0f}%" for size, n in sorted(counts.items())) or "not told"


def batches_of(metrics: str, model: str) -> Counter[int]:
    """A model's batches by size, from the text of `/metrics`: each bucket's upper bound to its own count."""
    found = re.findall(rf'^lynceus_batch_size_bucket{{le="([\d.]+)",model="{model}"}} (\S+)$', metrics, re.M)
    counts: Counter[int] = Counter()
    below = 0
    for bound, total in sorted((float(bound), int(float(total))) for bound, total in found):
        counts[int(bound)] = total - below
        below = total
    return +counts


def _metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
        return str(response.read(), "utf-8")


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


@contextlib.contextmanager
def server_at(url: str | None, work: Work) -> Iterator[str]:
    """The address of a running server, or of one of our own that loads just what the task needs."""
    if url is not None:
        yield url.removeprefix("http://").rstrip("/")
        return
    with Server({"LYNCEUS_MODELS": os.environ.get("LYNCEUS_MODELS", ",".join(work.models))}) as server:
        yield server.address


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="classify")
    parser.add_argument("--pictures", type=Path, help="a folder of JPEGs; default: the task's")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each round")
    parser.add_argument("--rounds", type=int, default=3, help="for each number of connections")
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--server-url", help="a running server on this machine; default: start one")
    options = parser.parse_args()
    work = TASKS[options.task]
    pictures = pictures_in(options.pictures or work.pictures)
    connections = [int(count) for count in options.connections.split(",")]

    rates = sweep(work, pictures, min(2.0, options.seconds))
    (layout, batch), _ = max(rates.items(), key=lambda item: item[1])
    with (
        bodies_of(work, pictures) as bodies,
        server_at(options.server_url, work) as address,
        Limit(work, pictures, layout) as limit,
    ):
        check_answer(address, work, bodies[0])
        before = _metrics(address)
        rounds = measure(limit, batch, address, work, bodies, connections, options.seconds, options.rounds)
        after = _metrics(address)
        size = statistics.mean(body.stat().st_size for body in bodies) / 1000
    print(f"{options.task}, {len(bodies)} bodies of {size:.0f} kB; limit: {layout}, batch {batch}\n")
    print(table(rounds))
    print()
    for model in work.models:
        print(f"batches of {model}: {shares(batches_of(after, model) - batches_of(before, model))}")


if __name__ == "__main__":
    main()
