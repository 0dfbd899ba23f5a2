"""What a request costs the event loop of a worker: CPU time of its thread, over a real socket.

    python -m loadtests.looptime
    python -m loadtests.looptime --transports grpc --profile
    python -m loadtests.looptime --checkout ../before    # another commit's worktree, deployed beside

The loop's thread limits a worker whose network is fast. Its CPU time is read from the kernel before and
after a load of the generator, and divided by the answers. Servers that each do more give a request's parts:

- `floor`: the same web server, or gRPC's, with an application that takes the body in and sends as many bytes;
- `network`: that, which also has the small network (lenet5) decode and compute in the model's thread, with
  the least of batchers before it: what any application pays for sharing the interpreter's lock and the
  processor's caches with a network;
- `transport`: the whole application, whose task has its answer already;
- `service`: all of it, with the batcher, the model's thread and the network;
- `hosted`: the same as it is deployed, by BentoML with one worker.

Their rounds take turns; the lowest of each is shown, since what else runs on a machine only ever adds.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]

from loadtests import command, loadgen
from loadtests.server import ROOT, Server, free_port, status
from loadtests.tasks import TASKS, bodies_of, images_in, messages_of

STAGES: Final = ("floor", "network", "transport", "service")
HOSTED: Final = "hosted"
WORKER: Final = "worker"
"""Stands in the command line of BentoML's worker processes."""
READY: Final = 120.0
"""Seconds until a server answers."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is measured: the process whose first thread is the event loop, and its addresses."""

    pid: int
    http: str
    grpc: str


def loop_seconds(pid: int) -> float:
    """CPU time of a process's first thread (`schedstat`, nanoseconds)."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


@contextlib.contextmanager
def process(stage: str, *, profile: bool = False) -> Iterator[Running]:
    """A worker of a stage; with `profile` it prints one at its end."""
    http, grpc = free_port(), free_port()
    command = [sys.executable, "-m", "loadtests.loopserver", stage, str(http), str(grpc)]
    with tempfile.TemporaryFile("w+") as output:
        command += ["--profile"] if profile else []
        server = subprocess.Popen(command, cwd=ROOT, stdout=output)
        try:
            give_up = time.monotonic() + READY
            while status(f"127.0.0.1:{http}", "/livez") is None:
                if server.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"the stage {stage} does not answer")
                time.sleep(0.1)
            yield Running(server.pid, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
        finally:
            server.terminate()
            server.wait(READY)
        output.seek(0)
        if profile:
            print("".join(line for line in output if not line.startswith("{")))  # without the access log


@contextlib.contextmanager
def hosted(root: Path = ROOT) -> Iterator[Running]:
    """The service of a checkout as it is deployed."""
    settings = {"LYNCEUS_MODELS": "lenet5", "LYNCEUS_WORKERS": "1", "LYNCEUS_THREADS": "1"}
    with Server({**settings, "PYTHONPATH": str(root)}, root=root) as server:
        (worker,) = [one for one in server.processes() if _is_worker(one)]
        yield Running(worker.pid, server.address, server.grpc_address)


def _is_worker(one: psutil.Process) -> bool:
    return any(WORKER in part for part in (one.name(), *one.cmdline())) and not one.children()


def measure(
    running: Running, transport: str, files: Sequence[Path], connections: int, seconds: float
) -> float:
    """CPU milliseconds of the loop for each answer.

    Raises:
        RuntimeError: there were errors.
    """
    work = TASKS["digits"]
    address, path = (running.http, work.path) if transport == "http" else (running.grpc, work.method)
    options = {"connections": connections, "content_type": work.content_type, "grpc": transport == "grpc"}
    loadgen.run(address, path, files, seconds=seconds / 4, **options)
    before = loop_seconds(running.pid)
    load = loadgen.run(address, path, files, seconds=seconds, **options)
    spent = loop_seconds(running.pid) - before
    if load.errors or not load.requests:
        raise RuntimeError(f"{transport}: errors {load.errors} of {load.requests} requests")
    return 1000 * spent / load.requests


def main() -> None:
    """Prints a table, a row for each transport."""
    parser = command.parser(__doc__)
    parser.add_argument("--transports", default="http,grpc")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: the digits' photographs")
    parser.add_argument("--checkout", type=Path, action="append", default=[], help="deployed as well")
    parser.add_argument("--profile", action="store_true", help="of the whole service, in place of the table")
    options = parser.parse_args()
    work = TASKS["digits"]
    images = images_in(options.images or work.images)[:8]
    with contextlib.ExitStack() as stack:
        files = {
            "http": stack.enter_context(bodies_of(work, images)),
            "grpc": stack.enter_context(messages_of(work, images)),
        }
        transports = options.transports.split(",")
        if options.profile:
            with process("service", profile=True) as running:
                for name in transports:
                    measure(running, name, files[name], options.connections, options.seconds)
            return
        servers = {stage: stack.enter_context(process(stage)) for stage in STAGES}
        servers[HOSTED] = stack.enter_context(hosted())
        for root in options.checkout:
            servers[f"{HOSTED}, {root.resolve().name}"] = stack.enter_context(hosted(root.resolve()))
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.rounds):
            for name in transports:
                for stage, running in servers.items():
                    spent = measure(running, name, files[name], options.connections, options.seconds)
                    found.setdefault((name, stage), []).append(spent)
        print(command.head("transport", *(f"{stage}: ms" for stage in servers)))
        for name in transports:
            cells = [
                f"{min(rounds):.3f} (to {max(rounds):.3f})"
                for stage in servers
                for rounds in [found[name, stage]]
            ]
            print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
