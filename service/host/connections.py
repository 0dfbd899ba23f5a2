"""Timeouts of idle HTTP connections, and the limit of their number.

uvicorn closes a connection that stays idle after an answer, but waits for ever for one that sends nothing at
all, or a header a byte at a time (https://en.wikipedia.org/wiki/Slowloris_(cyber_attack)), or reads nothing
of its answer. Here one timer of the worker checks all its connections periodically, so that a connection
costs no timer and a request costs nothing. A body is waited for by the request that reads it.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Collection
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import NotReady
from service.host.protocol import Refusal, bounded, refusal

LOOKS: Final = 5
"""Checks per time limit: a client is disconnected at most a fifth of it late, and a second."""

NOTHING_YET: Final = object()
"""What a new connection has sent."""

SPARE: Final = 1024
"""Files besides connections: models, gRPC, metrics, libraries."""


class ConnectionGuard:
    """Closes connections whose clients are too slow, and refuses connections beyond a number.

    Args:
        seconds: how long a connection may take until the headers of its first request are complete, or those
            of its next one once that has begun; how long its client may read nothing of an answer; and how
            long it may be idle between two requests while over half of `most` are open.
        most: connections at once.
        loop: the worker's.
        leaving: whether the server stops, so that no connection is kept after its answer.
    """

    def __init__(
        self,
        seconds: float,
        most: int,
        loop: asyncio.AbstractEventLoop,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._leaving = leaving
        self._seconds = seconds
        self._most = most
        self._loop = loop
        self._connections: Collection[HttpToolsProtocol] = ()
        self._waiting: dict[HttpToolsProtocol, tuple[object, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._refusal = refusal(NotReady("this server holds as many connections as it may"))

    def watch(self) -> None:
        """Bounds the connections of the loop's next servers on given sockets; others are as before."""
        plain = self._loop.create_server

        async def create_server(factory: Any, *args: Any, **options: Any) -> Any:
            if options.get("sock") is None:
                return await plain(factory, *args, **options)
            if options.get("ssl") is not None:
                options.setdefault("ssl_handshake_timeout", self._seconds)
            return await plain(self.guarded(factory), *args, **options)

        self._loop.create_server = create_server  # type: ignore[method-assign, assignment]

    def guarded(self, factory: Callable[[], Any]) -> Callable[[], asyncio.BaseProtocol]:
        """A factory of bounded protocols that gives a refusal when there are too many."""
        factory = bounded(factory, self._leaving)

        def make() -> asyncio.BaseProtocol:
            if len(self._connections) >= self._most:
                return Refusal(self._refusal)
            connection: Any = factory()
            self._connections = connection.connections  # uvicorn's own, of all that are open
            if self._timer is None:
                self._later()
            return connection  # type: ignore[no-any-return]

        return make

    def look(self) -> None:
        """Aborts every connection whose client has exceeded the time limit."""
        now = self._loop.time()
        waiting: dict[HttpToolsProtocol, tuple[object, float]] = {}
        crowded = len(self._connections) > self._most // 2
        for connection in self._connections:
            reason = _awaited(connection, crowded)
            if reason is not None:
                since = self._waiting.get(connection)
                if since is None or since[0] != reason:
                    since = (reason, now)
                if now - since[1] < self._seconds:
                    waiting[connection] = since
                else:
                    self._loop.call_soon(connection.transport.abort)
        self._waiting = waiting

    def _later(self) -> None:
        self._timer = self._loop.call_later(min(1.0, self._seconds / LOOKS), self._look_again)

    def _look_again(self) -> None:
        self.look()
        self._timer = None
        if self._connections:
            self._later()


def _awaited(connection: HttpToolsProtocol, crowded: bool) -> Any:
    """What a connection waits for its client to do, as a thing that is another when that has been done.

    `crowded`: there are so many connections that an idle one has to send its next request too.
    """
    transport = connection.transport
    unread = transport.get_write_buffer_size()
    if unread or transport.is_closing():
        return unread >> 16  # to read 64 KiB more of it
    cycle: Any = connection.cycle  # None before the first request
    if cycle is None:
        return NOTHING_YET
    if cycle.response_complete and (crowded or connection.timeout_keep_alive_task is None):
        return cycle  # idle; without the timer something has come since, and no request of it yet
    return None


def raise_open_files(most: int, transports: int = 1) -> int:
    """Lets this process open as many files as the system allows, and says how many connections these are.

    Many systems start processes with 1,024 and leave it to them to ask for more. Every transport has its own
    share: the connections of one never take the files of another, or those that are spare.

    Args:
        most: connections of each transport that are wanted.
        transports: that have connections.

    Returns:
        Connections that each may have: `most`, or fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = transports * most + SPARE
    if hard != resource.RLIM_INFINITY:
        limit = hard
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    spare = min(SPARE, limit // 4)
    return max(1, min(most, (limit - spare) // transports))
