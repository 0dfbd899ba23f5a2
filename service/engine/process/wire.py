"""Messages between a front end and the device process, over a Unix socket.

A message is a header, the sizes of the arrays that lie in its slot, and a pickle. What is sent in one turn of
the event loop is written at once. The socket also tells each side at once that the other has ended, whatever
ended it, and its system calls order the accesses to the shared memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, cast

logger = logging.getLogger(__name__)

HEADER: Final = struct.Struct("<IBBHIQd")
SIZE: Final = struct.Struct("<I")
MOST: Final = 64 * 1024 * 1024
"""Bytes of a message; more is no message."""

HANDSHAKE: Final = 5.0
"""Seconds that either side waits for the other's first message."""


class Kind(IntEnum):
    """What a message says.

    A front end says `RUN` and `CANCEL`. The device process answers each `RUN` once, with `RESULT` or `ERROR`,
    also one that was cancelled; its slot is free then.
    """

    RUN = 1
    CANCEL = 2
    RESULT = 3
    ERROR = 4


class Message(NamedTuple):
    """One message.

    Attributes:
        model, slot: of the image.
        sequence: of the slot's claim.
        deadline: of the image, on the monotonic clock, which is one for all processes of a machine.
        sizes: of the arrays in the slot.
        pickled: the rest.
    """

    kind: int
    model: int
    slot: int
    sequence: int
    deadline: float = float("inf")
    sizes: Sequence[int] = ()
    pickled: bytes = b""

    def encode(self) -> bytes:
        """As it is sent."""
        count = len(self.sizes)
        length = SIZE.size * count + len(self.pickled)
        head = HEADER.pack(length, self.kind, self.model, count, self.slot, self.sequence, self.deadline)
        return b"".join((head, struct.pack(f"<{count}I", *self.sizes), self.pickled))


def decode(buffer: bytearray) -> Iterator[Message]:
    """The whole messages that a buffer begins with, which are taken out of it.

    Raises:
        ValueError: it holds something else.
    """
    start = 0
    try:
        while len(buffer) - start >= HEADER.size:
            length, kind, model, count, slot, sequence, deadline = HEADER.unpack_from(buffer, start)
            if length > MOST or length < SIZE.size * count:
                raise ValueError(f"a message of {length} bytes with {count} arrays")
            if len(buffer) - start < HEADER.size + length:
                return
            start += HEADER.size
            sizes = struct.unpack_from(f"<{count}I", buffer, start)
            pickled = bytes(memoryview(buffer)[start + SIZE.size * count : start + length])
            start += length
            yield Message(kind, model, slot, sequence, deadline, sizes, pickled)
    finally:
        del buffer[:start]


class Messages(asyncio.Protocol):
    """A connection.

    Args:
        received: called with each message; a ValueError ends the connection.
        lost: called once, when the connection has ended.
    """

    def __init__(self, received: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._received, self._lost = received, lost
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._waiting: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            for message in decode(self._buffer):
                self._received(message)
        except ValueError as error:
            logger.error("the other side of a connection between processes says what has no sense: %s", error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._lost()
        del self._received, self._lost  # a cycle with the owner, which would keep its shared memory

    def send(self, message: Message) -> None:
        """Sends it at the end of this turn of the loop, unless the connection has ended."""
        if self._transport is None:
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(message.encode())

    def close(self) -> None:
        """Ends the connection, at once."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is not None and self._waiting:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()


def socket_of(folder: Path, number: int) -> Path:
    """Where a device process listens.

    Args:
        folder: of the workers' metrics.
        number: of the device, from 1.
    """
    return folder / f"device-{number}.sock"


@contextmanager
def address(path: Path) -> Iterator[str]:
    """A path as a socket's address, which may have 107 bytes: by way of its folder's descriptor."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """A socket that listens there, for this user alone; what a process that ended has left is replaced.

    Raises:
        OSError: it cannot.
    """
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address(path) as name:
            listening.bind(name)
        path.chmod(0o600)  # before it listens: no other user can connect
        listening.listen(256)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def connect(path: Path) -> socket.socket:
    """A connection to what listens there.

    Raises:
        OSError: nothing does.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(HANDSHAKE)
        with address(path) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


def tell(connection: socket.socket, text: bytes, files: tuple[int, ...] = ()) -> None:
    """Sends the first message of a connection: its length, the text, and with it descriptors of files."""
    socket.send_fds(connection, [SIZE.pack(len(text))], files)
    connection.sendall(text)


def hear(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Receives what `tell` sends.

    Raises:
        OSError: the other side has ended, or is silent.
    """
    head, files, *_ = socket.recv_fds(connection, SIZE.size, 1)
    try:
        if len(head) < SIZE.size:
            raise ConnectionError("the other side has ended")
        text = bytearray()
        (length,) = SIZE.unpack(head)
        while len(text) < min(length, MOST):
            more = connection.recv(length - len(text))
            if not more:
                raise ConnectionError("the other side has ended")
            text += more
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return bytes(text), files
