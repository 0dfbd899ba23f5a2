"""Sends generated requests to a server of its own and monitors it: statuses, deaths, CPU time, memory."""

from __future__ import annotations

import argparse
import http.client
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

from loadtests.hostile.watch import Watch
from loadtests.server import Server

MODELS = "lenet5,mtcnn,dlib-resnet"
"""Small ones, so that most of the time goes into what is fuzzed."""
CLIENTS = 8
LONGEST = 30.0
"""Seconds after which an answer counts as none."""
MEMORY = 512 * 2**20
"""Bytes by which the workers' peaks may be over their sizes before, in sum."""


class Client(Protocol):
    """Sends requests one after another."""

    def send(self, request: Any) -> str:
        """The status of the answer, or the name of what came instead."""

    def close(self) -> None: ...


def _parser(kind: str) -> argparse.ArgumentParser:
    """The options of every kind."""
    options = argparse.ArgumentParser(prog=f"python -m loadtests.fuzz {kind}")
    options.add_argument("--count", type=int, default=10_000, help="requests")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--first", type=int, default=0, help="number of the first request, to repeat one")
    options.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="takes what is wrong")
    return options


@dataclass(frozen=True, slots=True)
class Kind:
    """What is fuzzed.

    Attributes:
        name: for messages and files.
        generate: makes a request; each has a `Random` of its own, so that one can be repeated.
        connect: gives a client of a server, from the addresses of HTTP and gRPC.
        wrong: whether a status is one that no request may lead to.
    """

    name: str
    generate: Callable[[Random], Any]
    connect: Callable[[str, str], Client]
    wrong: Callable[[str], bool]


@dataclass(slots=True)
class Result:
    """What came of some requests.

    Attributes:
        statuses: how often each was seen.
        wrong: numbers of requests with a wrong status or without an answer, each with what came of it.
        slowest: seconds.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: dict[int, str] = field(default_factory=dict)
    slowest: float = 0.0


def send_all(kind: Kind, seed: int, numbers: Iterable[int], address: str, grpc_address: str) -> Result:
    """Sends the requests of these numbers to a server, some at once."""
    result, left, lock = Result(), iter(numbers), threading.Lock()

    def work() -> None:
        client = kind.connect(address, grpc_address)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                client.close()
                return
            request = kind.generate(Random(f"{seed}:{number}"))
            begin = time.monotonic()
            status = client.send(request)
            took = time.monotonic() - begin
            with lock:
                result.slowest = max(result.slowest, took)
                result.statuses[status] += 1
                if kind.wrong(status) or took > LONGEST:
                    result.wrong[number] = f"{status}, {took:.1f} s\n{request!r}\n"

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return result


def run(kind: Kind, arguments: Sequence[str]) -> int:
    """Sends as many requests as the command line says to a server of its own; prints what came of them.

    Returns:
        0, or 1 where a worker died, took too much memory, or a status was wrong.
    """
    options = _parser(kind.name).parse_args(arguments)
    settings = {"LYNCEUS_MODELS": MODELS, "LYNCEUS_WORKERS": "1", "LYNCEUS_DRAIN_SECONDS": "0"}
    with ExitStack() as stack:
        server = stack.enter_context(Server(settings))
        root = server.processes()[0]
        watch = stack.enter_context(Watch(root.pid, 8 * 2**30, root.kill))
        watch.reset()
        begin = time.monotonic()
        numbers = range(options.first, options.first + options.count)
        result = send_all(kind, options.seed, numbers, server.address, server.grpc_address)
        seconds = time.monotonic() - begin
        usage = watch.usage()
    mean = 1000 * usage.cpu / max(1, options.count)
    print(f"{options.count} {kind.name} requests in {seconds:.0f} s, seed {options.seed}")
    print("  " + ", ".join(f"{count} {status}" for status, count in result.statuses.most_common()))
    print(
        f"  {mean:.2f} ms of CPU each, slowest {result.slowest:.1f} s, memory +{usage.rise / 2**20:.0f} MiB, "
        f"{usage.died} workers died, {len(result.wrong)} wrong"
    )
    for number, told in result.wrong.items():
        options.folder.mkdir(parents=True, exist_ok=True)
        file = options.folder / f"{kind.name}-{options.seed}-{number}.txt"
        file.write_text(told, encoding="utf-8", errors="backslashreplace")
        print(f"  wrong: --seed {options.seed} --first {number} --count 1, see {file}", file=sys.stderr)
    return int(bool(result.wrong) or usage.died > 0 or usage.rise > MEMORY)


class HttpClient:
    """A connection that is kept, and reopened where it was closed; sends (method, path, headers, body)."""

    def __init__(self, address: str, grpc_address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=LONGEST + 5)

    def send(self, request: tuple[str, str, dict[str, str], bytes]) -> str:
        method, path, headers, body = request
        for again in (True, False):
            try:
                self._connection.request(method, path, body, headers)
                answer = self._connection.getresponse()
                answer.read()
                if answer.will_close:
                    self._connection.close()
                return str(answer.status)
            except TimeoutError:
                self._connection.close()
                return "no answer"
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if not again:  # an idle connection may be closed at any time, a new one may not
                    return type(error).__name__
        return "closed"

    def close(self) -> None:
        self._connection.close()


def wrong_http(status: str) -> bool:
    """Whether a status of HTTP, or what came instead of one, is a failure of the server."""
    return not status.isdigit() or (status >= "500" and status not in ("503", "504"))
