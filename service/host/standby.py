"""Answers in place of the workers while there is none: 503 `not_ready`, at once.

The listening socket is the supervisor's too, so the system refuses no connection that no worker accepts: it
waits for a worker that is being started anew, past its client's deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final

from service.errors import NotReady
from service.host.protocol import Refusal, refusal

LOOK: Final = 0.2
"""Seconds between two looks."""


class Standby:
    """A thread of the supervisor with an event loop of its own.

    Args:
        listener: the workers' listening socket.
        needed: whether no worker accepts from it; asked from the thread.
    """

    def __init__(self, listener: socket.socket, needed: Callable[[], bool]) -> None:
        self._listener = socket.fromfd(listener.fileno(), listener.family, listener.type)
        self._needed = needed

    def start(self) -> None:
        """Looks from now on."""
        self._listener.setblocking(False)
        threading.Thread(target=lambda: asyncio.run(self._look()), name="standby", daemon=True).start()

    def stop(self) -> None:
        """Accepts no more."""
        self._listener.close()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        answer = refusal(NotReady("no worker is ready"))
        while self._listener.fileno() >= 0:
            while self._needed() and (connection := self._accept()) is not None:
                with contextlib.suppress(OSError):
                    await loop.connect_accepted_socket(lambda: Refusal(answer), connection)
            await asyncio.sleep(LOOK)

    def _accept(self) -> socket.socket | None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # there is none, there is no file left for it, or the server stops
            return None
        connection.setblocking(False)
        return connection
