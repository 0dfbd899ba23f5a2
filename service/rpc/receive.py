"""Takes a call's messages in: waits for them, counts their memory, inflates, checks and parses them.

gRPC hands over the bytes as they were sent (`grpc.per_message_decompression` is off): what a compressed
message becomes is bounded here, by what its method may carry and by the worker's memory, before it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from models.errors import ImageTooLarge, ParameterInvalid
from service.engine.engine import Engine
from service.engine.memory import BodyReservation
from service.errors import DeadlineExceeded, RequestTimeout
from service.inflater import Inflater
from service.rpc.context import Call
from service.rpc.wire import Bounds, check, data_fields, layout_of
from service.settings import Settings

M = TypeVar("M")

COPIES: Final = 2
"""Copies of a message's bytes held at once: as received or in protobuf's memory, and as Python's."""

EXPANSION: Final = 8
"""Bytes that a number of one byte on the wire takes once parsed, at most."""


class Frame(Generic[M]):
    """One message of a stream, or why it is refused."""

    def __init__(self, outcome: M | Exception, release: Callable[[], None]) -> None:
        self._outcome: M | Exception | None = outcome
        self._release = release

    def message(self) -> M:
        """
        Raises:
            Exception: why there is none.
        """
        assert self._outcome is not None  # noqa: S101 (not closed)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def close(self, _: object = None) -> None:
        """Releases the message and its memory; idempotent. Takes a task, as whose callback it is called."""
        self._outcome = None
        self._release()


class Method:
    """What a method takes, and how its messages are taken in.

    Args:
        engine: of the worker: its memory, and threads that inflate.
        settings: the limits.
        name: as gRPC has it, `/package.Service/Method`.
        parse: the generated deserializer, bytes -> message.
        bounds: of its messages.
        is_open: it needs no key.

    Attributes:
        memory: where messages are counted.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        name: str,
        parse: Callable[[bytes | bytearray], Any],
        bounds: Bounds,
        *,
        is_open: bool,
    ) -> None:
        self._engine, self.memory = engine, engine.memory
        self._parse = parse
        taken = descriptor_pool.Default().FindMethodByName(name[1:].replace("/", ".")).input_type
        self._bounds, self._layout = bounds, layout_of(taken, bounds.holders)
        single, several = data_fields(taken)
        data = settings.max_body_bytes
        if not several:
            data = min(single * settings.max_image_bytes + bounds.data, data)
        self._most = data + bounds.framing
        self._seconds = settings.timeout_seconds
        if is_open:
            self._seconds = min(self._seconds, settings.header_timeout_seconds)

    async def single(self, call: Call, body: BodyReservation) -> Any:
        """The message of a call that has one.

        Raises:
            RequestTimeout: it did not arrive in time.
            ParameterInvalid, ImageTooLarge, OutOfMemory, DeadlineExceeded: as `open` does.
        """
        try:
            async with asyncio.timeout(self._seconds):
                raw = await call.read()
        except TimeoutError:
            raise RequestTimeout("the message took too long to arrive") from None
        if not isinstance(raw, bytes):
            if call.cancelled():
                raise asyncio.CancelledError
            raise ParameterInvalid("message", "the call has no message")
        return await self.open(raw, call, body)

    async def open(self, raw: bytes, call: Call, body: BodyReservation) -> Any:
        """Bytes -> message.

        Args:
            raw: as received.
            call: whose message it is.
            body: where the memory is counted.

        Raises:
            ParameterInvalid: it is no message of the method, or of too many parts.
            ImageTooLarge: it has more bytes than the method takes.
            OutOfMemory: the worker's messages hold as much as they may.
            DeadlineExceeded: the deadline has passed.
        """
        if len(raw) > self._most:
            raise ImageTooLarge(f"the message has more bytes than the {self._most} that this method takes")
        body.grow(COPIES * len(raw))
        whole = raw
        if is_compressed(raw):
            encoding = "gzip" if raw[:1] == b"\x1f" else "deflate"
            inflater = Inflater(raw, encoding, self._most, "message")
            whole = await inflater.whole(lambda size: body.grow(COPIES * size), self._engine.in_decoder)
        numbers = check(whole, self._layout, self._bounds)
        if numbers:
            body.grow(EXPANSION * numbers)
        left = call.time_remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded("the deadline passed before the message was there")
        try:
            return self._parse(whole)
        except DecodeError:
            raise ParameterInvalid("message", "the bytes are no message of this method") from None


class Frames(Generic[M]):
    """The messages of one stream, each read when it is asked for.

    How far a stream is read ahead is bounded by the bytes that it holds and by those that all hold; the first
    of its messages that are under way is always read, and then refused if there is no room for it.
    """

    def __init__(self, method: Method, call: Call) -> None:
        self._method, self._call, self._memory = method, call, method.memory
        self._open: set[BodyReservation] = set()

    @property
    def room(self) -> bool:
        """Whether another message may be read while one is under way."""
        bodies = self._memory.total // 2  # see MemoryBudget
        held = sum(body.size for body in self._open)
        return held <= bodies // 8 and self._memory.bodies <= bodies // 2

    def __enter__(self) -> Frames[M]:
        return self

    def __exit__(self, *_: object) -> None:
        """Gives back what is still held."""
        for body in tuple(self._open):
            self._release(body)

    def __aiter__(self) -> AsyncIterator[Frame[M]]:
        return self

    async def __anext__(self) -> Frame[M]:
        raw = await self._call.read()
        if not isinstance(raw, bytes):
            raise StopAsyncIteration
        body = BodyReservation(self._memory)
        self._open.add(body)
        outcome: M | Exception
        try:
            outcome = await self._method.open(raw, self._call, body)
        except Exception as error:
            self._release(body)
            outcome = error
        return Frame(outcome, partial(self._release, body))

    async def messages(self) -> AsyncIterator[M]:
        """One after the other, for a servicer of a library.

        Raises:
            Exception: why a message is refused.
        """
        async for frame in self:
            try:
                yield frame.message()
            finally:
                frame.close()

    def _release(self, body: BodyReservation) -> None:
        body.__exit__()
        self._open.discard(body)


def is_compressed(raw: bytes) -> bool:
    """Whether bytes are gzip's or zlib's ("deflate"), by how these begin.

    No message begins like gzip, whose first byte would be a field of a kind that does not exist, and none
    here like zlib with its usual window, which would be a field of the number 15.
    """
    return raw[:2] == b"\x1f\x8b" or (raw[:1] == b"\x78" and int.from_bytes(raw[:2]) % 31 == 0)
