"""The in-process limit: what this machine can do with a model without a server.

    python -m loadtests.limit --task classify

The same work as a request's (see `chains.py`) over the same images; the best of several batch sizes, of one
process with all threads and of one process per core. A server's throughput is judged by its ratio to this.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from loadtests import command
from loadtests.tasks import LIMITED, Work, images_in, requests_of

BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Layout:
    """Processes, and model threads of each."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} process(es) of {self.threads} thread(s)"


def layouts() -> list[Layout]:
    """One process with all cores, and one process per core."""
    cores = len(os.sched_getaffinity(0))
    return [Layout(1, cores), *([Layout(cores, 1)] if cores > 1 else [])]


Job = tuple[Work, Sequence[Path]]
"""What is done, and with which images, in turn."""


class Limit:
    """Processes that hold warm models and work only during `measure`; a context manager.

    Args:
        jobs: what they do.
        layout: how many of them.
        batches: sizes to be warm for.
    """

    def __init__(self, jobs: Sequence[Job], layout: Layout, batches: Sequence[int] = BATCHES) -> None:
        self.layout = layout
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(layout.processes):
            ours, theirs = context.Pipe()
            shares = [(work, [*images[number:], *images[:number]]) for work, images in jobs]
            arguments = theirs, shares, layout.threads, batches
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        for pipe in self._pipes:
            pipe.recv()  # warm; an EOFError if it failed, which it has said on its standard error
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=20)
            if process.is_alive():
                process.kill()

    def measure(self, batch: int, seconds: float, job: int = 0) -> float:
        """Requests per second, of all processes working at once for so long at the job of this number."""
        begin = time.monotonic() + 0.1  # one clock for all processes of a machine
        for pipe in self._pipes:
            pipe.send((job, batch, begin, seconds))
        return float(sum(pipe.recv() for pipe in self._pipes))

    def alone(self, job: int = 0) -> float:
        """Seconds that one process takes for one request with nothing else to do."""
        self._pipes[0].send((job, 0, 0.0, 0.0))
        return float(self._pipes[0].recv())


def _work(pipe: Connection, jobs: Sequence[Job], threads: int, batches: Sequence[int]) -> None:
    """A process: load, warm, then a rate for each order until the pipe is closed."""
    from loadtests.chains import make_chain  # here, since the parent needs none of the models' libraries

    chains, bodies = [], []
    for work, images in jobs:
        chains.append(make_chain(work, threads, [size for size in batches if size <= work.most]))
        encoded = {image: image.read_bytes() for image in images}
        bodies.append([[encoded[image] for image in request] for request in requests_of(work, images)])
        chains[-1].answer([chains[-1].prepare(bodies[-1][0])])
    pipe.send("warm")
    while True:
        try:
            job, batch, begin, seconds = pipe.recv()
        except EOFError:
            return
        chain = chains[job]
        if batch == 0:
            pipe.send(_alone(chain, bodies[job]))
            continue
        with _preparing(chain.prepare, threads) as prepared:
            stream = prepared(cycle(bodies[job]), 2 * batch)
            time.sleep(max(0.0, begin - time.monotonic()))
            started = time.monotonic()
            done = 0
            while time.monotonic() < begin + seconds:
                chain.answer(list(islice(stream, batch)))
                done += batch
            pipe.send(done / (time.monotonic() - started))


def _alone(chain: Any, requests: Sequence[Sequence[bytes]]) -> float:
    """Of two requests in a row the second: the first fetches what others pushed out of the caches."""
    for request in random.choices(requests, k=2):
        started = time.monotonic()
        chain.answer([chain.prepare(request)])
    return time.monotonic() - started


@contextmanager
def _preparing(prepare: Any, threads: int) -> Iterator[Any]:
    """Gives a function from requests to prepared ones: on the spot with one thread, else ahead in a pool."""
    if threads == 1:
        yield lambda requests, ahead: map(prepare, requests)
        return
    with ThreadPoolExecutor(threads) as pool:

        def stream(requests: Iterable[Sequence[bytes]], ahead: int) -> Iterator[Any]:
            source = iter(requests)
            waiting: list[Future[Any]] = []
            while True:
                while len(waiting) < max(ahead, threads):
                    waiting.append(pool.submit(prepare, next(source)))
                yield waiting.pop(0).result()

        yield stream


def sweep(work: Work, images: Sequence[Path], seconds: float) -> dict[tuple[Layout, int], float]:
    """The rate of each layout and batch size."""
    rates: dict[tuple[Layout, int], float] = {}
    for layout in layouts():
        with Limit([(work, images)], layout) as limit:
            for batch in BATCHES:
                if batch <= work.most:
                    rates[layout, batch] = limit.measure(batch, seconds)
    return rates


def main() -> None:
    """Prints the sweep as a Markdown table."""
    parser = command.parser(__doc__)
    parser.add_argument("--task", choices=sorted(LIMITED), default="classify")
    parser.add_argument("--model", help="a model of the catalogue; default: the task's")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: the task's")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    options = parser.parse_args()
    work = LIMITED[options.task]
    work = replace(work, model=options.model or work.model)
    rates = sweep(work, images_in(options.images or work.images), options.seconds)
    print(f"{', '.join(work.models)}, requests per second\n")
    print(command.head("layout", *(f"batch {batch}" for batch in BATCHES)))
    for layout in layouts():
        print(f"| {layout} | " + " | ".join(f"{rates[layout, batch]:.1f}" for batch in BATCHES) + " |")


if __name__ == "__main__":
    main()
