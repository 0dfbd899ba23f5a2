"""How near the service comes to the machine's limit.

    python -m loadtests.ceiling --task classify --seconds 10 --connections 1,16,64
    python -m loadtests.ceiling --transports http,grpc --connections 16

Limit and service are measured in turn, in one run (limit, served, limit, served ...), and each served round
is divided by the mean of the two limits around it, so that a drift of the machine's speed cancels out.
The table has the median round of each number of connections.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from loadtests import command, loadgen
from loadtests.limit import Limit, sweep
from loadtests.loadgen import Load
from loadtests.server import Server
from loadtests.tasks import LIMITED, Work, bodies_of, check_answer, images_in, messages_of


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of the service.

    Attributes:
        transport: ``http`` or ``grpc``.
        address: ``host:port``.
        path: a route, or a gRPC method's full name.
        bodies: files, a request each.
        content_type: of HTTP's bodies.
    """

    transport: str
    address: str
    path: str
    bodies: Sequence[Path]
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of the service, and the in-process limit around it, in requests per second."""

    transport: str
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
    endpoints: Sequence[Endpoint],
    connections: Sequence[int],
    seconds: float,
    rounds: int,
) -> list[Round]:
    """Alternates limit and served rounds, each endpoint and each number of connections in turn."""
    results = []
    before = limit.measure(batch, seconds)
    for _, count, endpoint in product(range(rounds), connections, endpoints):
        load = loadgen.run(
            endpoint.address,
            endpoint.path,
            endpoint.bodies,
            content_type=endpoint.content_type,
            connections=count,
            seconds=seconds,
            warmup=min(2.0, seconds / 4),
            grpc=endpoint.transport == "grpc",
        )
        after = limit.measure(batch, seconds)
        results.append(Round(endpoint.transport, count, load, (before + after) / 2))
        before = after
        what = f"{endpoint.transport}, {count:4d} connections"
        print(f"{what}: {load.rps:7.1f}/s of {results[-1].limit:7.1f}/s", file=sys.stderr)
    return results


def median_round(rounds: Sequence[Round]) -> Round:
    """The round of the middle ratio (the lower of two)."""
    return sorted(rounds, key=lambda each: each.ratio)[(len(rounds) - 1) // 2]


def table(rounds: Sequence[Round]) -> str:
    """Markdown: the median round of each transport and number of connections; errors of all rounds."""
    lines = [
        "| transport | connections | served/s | limit/s | served / limit | p50 ms | p99 ms | errors "
        "| batch sizes | generator's CPU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for transport, count in sorted({(each.transport, each.connections) for each in rounds}):
        mine = [each for each in rounds if (each.transport, each.connections) == (transport, count)]
        middle = median_round(mine)
        load = middle.load
        errors: dict[str, int] = {}
        for each in mine:
            for name, number in each.load.errors.items():
                errors[name] = errors.get(name, 0) + number
        ratios = "..".join(f"{100 * ratio:.0f}" for ratio in _ends([each.ratio for each in mine]))
        failed = ", ".join(f"{name}: {number}" for name, number in sorted(errors.items())) or "0"
        lines.append(
            f"| {transport} | {count} | {load.rps:.1f} | {middle.limit:.1f} "
            f"| {100 * middle.ratio:.0f}% ({ratios}) | {load.p50_ms:.1f} | {load.p99_ms:.1f} | {failed} "
            f"| {shares(load.batch_sizes)} | {100 * load.cpu_seconds / load.seconds:.1f}% of a core |"
        )
    return "\n".join(lines)


def shares(counts: Mapping[int, int]) -> str:
    """Each size and its share of the total."""
    total = sum(counts.values())
    return ", ".join(f"{size}: {100 * n / total:.0f}%" for size, n in sorted(counts.items())) or "unknown"


def batches_of(metrics: str, model: str) -> Counter[int]:
    """A model's batches by size, from the text of `/metrics`."""
    found = re.findall(rf'^lynceus_batches_total{{model="{model}",size="(\d+)"}} (\S+)$', metrics, re.M)
    return Counter({int(size): int(float(total)) for size, total in found})


def _metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
        return str(response.read(), "utf-8")


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


@contextlib.contextmanager
def endpoints_of(
    work: Work, images: Sequence[Path], transports: Sequence[str]
) -> Iterator[tuple[str, list[Endpoint]]]:
    """A new server that loads only what the task needs.

    Yields:
        the address of its HTTP, and its endpoints.
    """
    with contextlib.ExitStack() as stack:
        models = os.environ.get("LYNCEUS_MODELS", ",".join(work.models))
        server = stack.enter_context(Server({"LYNCEUS_MODELS": models}))
        endpoints = []
        if "http" in transports:
            bodies = stack.enter_context(bodies_of(work, images))
            endpoints.append(Endpoint("http", server.address, work.path, bodies, work.content_type))
            check_answer(server.address, work, bodies[0])
        if "grpc" in transports:
            messages = stack.enter_context(messages_of(work, images))
            endpoints.append(Endpoint("grpc", server.grpc_address, work.method, messages))
        yield server.address, endpoints


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--task", choices=sorted(LIMITED), default="classify")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: the task's")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each round")
    parser.add_argument("--rounds", type=int, default=3, help="for each number of connections")
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--transports", default="http", help="http, grpc or both, separated by commas")
    options = parser.parse_args()
    work = LIMITED[options.task]
    images = images_in(options.images or work.images)
    transports = options.transports.split(",")
    if not set(transports) <= {"http", "grpc"}:
        parser.error("--transports: http, grpc or both")
    connections = [int(count) for count in options.connections.split(",")]

    rates = sweep(work, images, min(2.0, options.seconds))
    (layout, batch), _ = max(rates.items(), key=lambda item: item[1])
    with (
        endpoints_of(work, images, transports) as (address, endpoints),
        Limit([(work, images)], layout) as limit,
    ):
        before = _metrics(address)
        rounds = measure(limit, batch, endpoints, connections, options.seconds, options.rounds)
        after = _metrics(address)
        bodies = endpoints[0].bodies
        size = statistics.mean(body.stat().st_size for body in bodies) / 1000
    print(f"{options.task}, {len(bodies)} bodies of {size:.0f} kB; limit: {layout}, batch {batch}\n")
    print(table(rounds))
    print()
    for model in work.models:
        print(f"batches of {model}: {shares(batches_of(after, model) - batches_of(before, model))}")


if __name__ == "__main__":
    main()
