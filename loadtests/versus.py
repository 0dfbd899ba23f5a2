"""How many times as fast this checkout serves as another one: both up at once and loaded in turn.

    python -m loadtests.versus ../before
    python -m loadtests.versus ../before --loads classify:1,16,64 detect:16 --rounds 3

Each ratio is of two rounds, one after the other, so that a drift of the machine cancels out; the table
has the median and the range. It ends with the servers' memory (PSS), after the load.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from loadtests import command, loadgen
from loadtests.loadgen import Load
from loadtests.server import ROOT, Server
from loadtests.tasks import LIMITED, bodies_of, check_answer, images_in

LOADS = ("classify:1,16,64", "detect:16", "verify:16", "stylize:4")


def pss(server: Server) -> float:
    """Memory of a server's processes in GB, what they share counted once."""
    return float(sum(process.memory_full_info().pss for process in server.processes())) / 1e9


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__)
    parser.add_argument("other", type=Path, help="a checkout of another commit")
    parser.add_argument("--loads", nargs="+", default=LOADS, help="TASK:CONNECTIONS,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    options = parser.parse_args()
    loads = [(task, counts.split(",")) for task, _, counts in (load.partition(":") for load in options.loads)]
    models = ",".join(dict.fromkeys(model for task, _ in loads for model in LIMITED[task].models))
    environment = {"LYNCEUS_MODELS": models}

    columns = ("task", "connections", "other/s", "this/s", "this / other", "p99, other / this, ms", "errors")
    print(command.head(*columns))
    with ExitStack() as stack:
        servers, starts = [], []
        for root in (options.other.resolve(), ROOT):
            began = time.monotonic()
            servers.append(stack.enter_context(Server(environment, root=root)))
            starts.append(time.monotonic() - began)
        for task, counts in loads:
            work = LIMITED[task]
            with bodies_of(work, images_in(work.images)) as bodies:
                for count in counts:
                    check_answer(servers[1].address, work, bodies[0])  # another has other fields

                    def load(server: Server, connections: int = int(count)) -> Load:
                        return loadgen.run(
                            server.address,
                            work.path,  # noqa: B023 (called here alone)
                            bodies,
                            content_type=work.content_type,  # noqa: B023
                            connections=connections,
                            seconds=options.seconds,
                            warmup=1.0,
                        )

                    pairs = [[load(server) for server in servers] for _ in range(options.rounds)]
                    print(row(task, count, pairs), flush=True)
        memory = [pss(server) for server in servers]
    figures = (
        f"start to ready {starts[0]:.1f} s / {starts[1]:.1f} s; PSS {memory[0]:.2f} / {memory[1]:.2f} GB"
    )
    print(f"\n{models}: {figures} (other / this)")


def row(task: str, connections: str, pairs: list[list[Load]]) -> str:
    """A line of the table."""
    ratios = sorted(this.rps / other.rps for other, this in pairs)
    others, these = zip(*pairs, strict=True)
    rates = [statistics.median(one.rps for one in several) for several in (others, these)]
    p99 = [statistics.median(one.p99_ms for one in several) for several in (others, these)]
    errors = sum(sum(one.errors.values()) for pair in pairs for one in pair)
    print(f"{task} {connections}: {ratios}", file=sys.stderr)
    return (
        f"| {task} | {connections} | {rates[0]:.1f} | {rates[1]:.1f} | **{statistics.median(ratios):.2f}** "
        f"({ratios[0]:.2f}..{ratios[-1]:.2f}) | {p99[0]:.0f} / {p99[1]:.0f} | {errors} |"
    )


if __name__ == "__main__":
    main()
