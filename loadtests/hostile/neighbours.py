"""Other clients during a case: the longest wait of each kind for an answer.

They are a process of their own: what the sender does (compressing, sending 64 MiB) does not delay them.
"""

from __future__ import annotations

import http.client
import multiprocessing
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Self

EVERY = 0.05
CONNECTIONS = 3
"""Of each kind, since a connection stays with one worker; together they send one every `EVERY` seconds."""
TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Waits:
    """Longest waits in seconds, and the statuses seen, by kind of neighbour (``model``, ``health``)."""

    longest: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)


class Neighbours:
    """Sends requests between `begin` and `end`.

    Args:
        address: ``host:port`` of the server.
        image: what the neighbours of the model send to `/v1/classify`.
    """

    def __init__(self, address: str, image: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, address, image), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("stop")
        self._process.join(TIMEOUT)

    def begin(self) -> None:
        """Starts; returns when each has had an answer."""
        self._pipe.send("begin")
        self._pipe.recv()

    def end(self) -> Waits:
        """Stops; returns when each has had its last answer."""
        self._pipe.send("end")
        found: Waits = self._pipe.recv()
        return found


def _serve(pipe: Connection, address: str, image: bytes) -> None:
    paths = {"model": ["/v1/classify?top_k=1"], "health": ["/livez", "/v2/health/live"]}
    asking: _Asking | None = None
    while True:
        match pipe.recv():
            case "begin":
                asking = _Asking(address, paths, image)
                pipe.send(None)
            case "end" if asking is not None:
                pipe.send(asking.end())
            case "stop":
                return


class _Asking:
    def __init__(self, address: str, paths: dict[str, list[str]], image: bytes) -> None:
        self._address = address
        self._image = image
        self._ended = threading.Event()
        self._longest = dict.fromkeys(paths, 0.0)
        self._statuses: dict[str, Counter[str]] = {kind: Counter() for kind in paths}
        self._threads = []
        begun = []
        for kind in paths:
            for index in range(CONNECTIONS):
                begun.append(threading.Event())
                arguments = (kind, paths[kind], index, begun[-1])
                self._threads.append(threading.Thread(target=self._ask, args=arguments, daemon=True))
        for thread in self._threads:
            thread.start()
        for event in begun:
            event.wait(TIMEOUT)

    def end(self) -> Waits:
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT)
        return Waits(self._longest, {kind: dict(seen) for kind, seen in self._statuses.items()})

    def _ask(self, kind: str, paths: list[str], index: int, started: threading.Event) -> None:
        path = paths[index % len(paths)]
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
        first = True
        while not self._ended.is_set():
            begin = time.monotonic()
            try:
                if kind == "model":
                    connection.request("POST", path, self._image, {"Content-Type": "image/jpeg"})
                else:
                    connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                status = str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
                connection.close()
            waited = time.monotonic() - begin
            if not first:  # the connection and the caches are ready
                self._longest[kind] = max(self._longest[kind], waited)
                self._statuses[kind][status] += 1
            first = False
            started.set()
            self._ended.wait(max(0.0, EVERY * CONNECTIONS - waited))
        connection.close()
