"""Accepting connections so that several worker processes share them evenly.

Workers wait on one listening socket, and the first to wake accepts all that are pending: of 16 connections
opened at once one worker may get 15. Connections are kept alive, so that share stays, and a core idles. Here
a worker accepts one connection at a time, with a delay that grows with its open ones.  (nginx's
accept mutex has the same aim; SO_REUSEPORT distributes at random.)

A worker that stops goes on accepting and refuses: the socket is other processes' too, so what no worker
accepts would not be refused by the system but wait, and be reset in the end.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from service.errors import NotReady
from service.host.protocol import LINGER, Refusal, refusal

logger = logging.getLogger(__name__)

STEP = 0.0002
"""Seconds that a worker delays accepting for each connection that it has open."""

MOST = 0.002
"""Longest delay in seconds: a worker still takes 500 connections a second."""


REST = 1.0
"""Seconds without accepting when the system has no file left for a connection."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class FairServer:
    """Listens on a socket that other processes listen on too; of asyncio's Server, what uvicorn uses.

    Args:
        loop: the running event loop.
        listener: bound and listening; it may be closed by its owner at any time.
        factory: makes a protocol for each connection.
        alone: no other process listens: nothing is delayed.
        options: of `loop.connect_accepted_socket`, for TLS.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        alone: bool = False,
        **options: Any,
    ) -> None:
        self._loop = loop
        self._listener = listener = listener.dup()
        self._factory = factory
        self._alone = alone
        self._options = options
        self._open: WeakSet[asyncio.BaseTransport] = WeakSet()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        listener.setblocking(False)
        loop.add_reader(listener, self._readable)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening socket, until closed."""
        return () if self._closed else (self._listener,)

    def close(self) -> None:
        """From now on new connections are refused; open ones stay."""
        if not self._closed:
            self._closed = True
            answer = refusal(NotReady("this server is stopping"))
            self._factory = lambda: Refusal(answer)

    async def finish(self) -> None:
        """Refuses the connections that wait to be accepted, and listens no more."""
        self.close()
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()
        while self._accept():
            pass
        self._listener.close()
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=LINGER)
        end = self._loop.time() + LINGER
        while self._loop.time() < end and any(not one.is_closing() for one in self._open):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def wait_closed(self) -> None:
        """Nothing to wait for: connections are their protocols' own."""

    def _readable(self) -> None:
        if self._closed or self._alone:
            self._accept()
            return
        busy = len(self._connecting)
        for transport in self._open:
            busy += not transport.is_closing()
            if busy * STEP >= MOST:  # of thousands only the first few need be counted
                break
        if busy:
            self._pause(min(STEP * busy, MOST))
        else:
            self._accept()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)  # or the loop would call back continuously meanwhile
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._readable)
        self._accept()

    def _accept(self) -> bool:
        """Whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was faster
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            logger.error("no connection can be accepted for %g s: %s", REST, error)
            self._pause(REST)
            return False
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    async def _connect(self, connection: socket.socket) -> None:
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._factory, connection, **self._options
            )
        except OSError:
            connection.close()
        else:
            self._open.add(transport)


def share_fairly(loop: asyncio.AbstractEventLoop, *, alone: bool = False) -> list[FairServer]:
    """Makes the loop's next servers on given sockets fair ones; others are as before.

    Args:
        alone: no other process listens on them.

    Returns:
        Those servers, as they are made.
    """
    plain = loop.create_server
    servers: list[FairServer] = []

    async def create_server(
        factory: Any, *args: Any, sock: socket.socket | None = None, backlog: int = 100, **options: Any
    ) -> Any:
        if sock is None:
            return await plain(factory, *args, backlog=backlog, **options)
        sock.listen(backlog)
        options = {name: value for name, value in options.items() if value is not None}
        servers.append(FairServer(loop, sock, factory, alone=alone, **options))
        return servers[-1]

    loop.create_server = create_server  # type: ignore[method-assign, assignment]
    return servers
