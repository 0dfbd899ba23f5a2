"""Messages come whole, in order, whatever pieces the socket gives; what is none ends the connection."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.process import wire
from service.engine.process.wire import HEADER, MOST, Kind, Message, Messages, decode

MESSAGES = st.builds(
    Message,
    kind=st.sampled_from(list(Kind)).map(int),
    model=st.integers(0, 255),
    slot=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**64 - 1),
    deadline=st.floats(allow_nan=False),
    sizes=st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple),
    pickled=st.binary(max_size=100),
)


@given(messages=st.lists(MESSAGES, max_size=8), piece=st.integers(1, 200))
def test_messages_survive_any_pieces(messages: list[Message], piece: int) -> None:
    sent = b"".join(one.encode() for one in messages)
    buffer, found = bytearray(), []
    for start in range(0, len(sent), piece):
        buffer += sent[start : start + piece]
        found += list(decode(buffer))
    assert found == messages
    assert not buffer


@pytest.mark.parametrize("head", [(MOST + 1, 1, 0, 0, 0, 0, 0.0), (3, 1, 0, 1, 0, 0, 0.0)])
def test_what_is_no_message_is_refused(head: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a message of"):
        list(decode(bytearray(HEADER.pack(*head))))


def test_one_turn_of_the_loop_is_one_write_and_nonsense_ends_the_connection() -> None:
    async def go() -> None:
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()
        received: list[Message] = []
        loop = asyncio.get_running_loop()
        _, messages = await loop.create_unix_connection(
            lambda: Messages(received.append, lost.set), sock=ours
        )
        for slot in range(3):
            messages.send(Message(Kind.RUN, 0, slot, 1))
        await asyncio.sleep(0)
        theirs.setblocking(False)
        await asyncio.sleep(0)
        assert [one.slot for one in decode(bytearray(theirs.recv(4096)))] == [0, 1, 2]
        theirs.send(Message(Kind.RESULT, 0, 9, 1).encode() + HEADER.pack(MOST + 1, 1, 0, 0, 0, 0, 0.0))
        await asyncio.wait_for(lost.wait(), 10)
        assert [one.slot for one in received] == [9]
        messages.send(Message(Kind.RUN, 0, 0, 2))  # to a closed connection
        theirs.close()

    asyncio.run(go())


def test_a_socket_in_a_deep_folder_is_reached_and_is_this_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    path = wire.socket_of(folder, 1)
    path.write_text("left by a process that was killed")
    with wire.listen(path) as listening:
        assert path.stat().st_mode & 0o777 == 0o600
        listening.setblocking(True)
        with wire.connect(path) as client:
            server, _ = listening.accept()
            with server:
                read, write = socket.socketpair()
                with read, write:
                    wire.tell(client, b"hello", (write.fileno(),))
                    text, files = wire.hear(server)
                    assert text == b"hello"
                    with socket.socket(fileno=files[0]) as passed:
                        passed.send(b"through")
                    assert read.recv(10) == b"through"
    with pytest.raises(OSError, match="refused"):
        wire.connect(path)


def test_a_side_that_ends_in_its_first_message_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        thread = threading.Thread(target=lambda: (theirs.send(b"\xff\0\0\0abc"), theirs.close()))
        thread.start()
        with pytest.raises(ConnectionError, match="ended"):
            wire.hear(ours)
        thread.join()
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(ConnectionError, match="ended"):
            wire.hear(ours)
