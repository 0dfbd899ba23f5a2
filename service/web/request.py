"""One HTTP request: its service and context, its parameters, and its body within bounds of size and time.

All of a body is bounded before it is read; what grows with a body is not done in the event loop.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from starlette import datastructures, requests
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from models.errors import ImageTooLarge, ParameterInvalid
from models.parameters import Parameters, collected
from service.app import Service
from service.engine.memory import BodyReservation
from service.errors import DeadlineExceeded, RequestTimeout
from service.inflater import Inflater
from service.request import RequestContext
from service.tasks.render import ImageFormat
from service.web.negotiation import weighted

T = TypeVar("T")
P = TypeVar("P", bound=Parameters)

INLINE: Final = 64 * 1024
"""Bytes of a body that are parsed in the event loop, in a millisecond; more in a decoding thread."""

WATCHED_AFTER: Final = 0.05
"""Seconds until a client is watched for its leaving: most answers are there before."""

SHORT: Final = 256
"""Bytes of a query whose parameters are kept for the next request that has the same, of as many queries."""

FORMATS: Final[dict[str, ImageFormat]] = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "image/*": "jpeg",
}


class Headers(datastructures.Headers):
    """Starlette's, of which each look-up walks over all of them and decodes what it finds."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope=scope)
        self._first = dict(reversed(self._list))

    def get(self, name: str, default: Any = None) -> Any:
        value = self._first.get(name.lower().encode("latin-1"))
        return default if value is None else value.decode("latin-1")


class Request(requests.Request):
    """What a route is given.

    Attributes:
        service: that answers.
        context: of the request.
    """

    def __init__(self, scope: Scope, receive: Receive, service: Service, context: RequestContext) -> None:
        super().__init__(scope, receive)
        self.service, self.context = service, context
        self._headers = Headers(scope)

    def begin(self) -> None:
        """Sets the deadline: the server's limit or `X-Timeout-Ms`, whichever is sooner.

        Raises:
            ParameterInvalid: `X-Timeout-Ms` is not a positive number.
        """
        stated = self.headers.get("x-timeout-ms")
        if stated is None:
            return
        try:
            seconds = float(stated) / 1000
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise ParameterInvalid("X-Timeout-Ms", "X-Timeout-Ms must be a positive number of milliseconds")
        self.context.deadline = min(self.context.deadline, self.context.started + seconds)

    def authorize(self) -> None:
        """Checks the key, where keys are set; the request counts as one of the key's.

        Raises:
            Unauthenticated: there is none that fits.
            KeyBusy: it has as many requests under way as it may.
        """
        auth = self.service.auth
        if auth.required:
            self.context.key = auth.acquire(*self.credentials)

    @property
    def credentials(self) -> tuple[str | None, str | None]:
        """The headers that may hold a key."""
        return self.headers.get("authorization"), self.headers.get("x-api-key")

    def parameters(self, kind: type[P], more: Collection[tuple[str, Any]] = ()) -> P:
        """The parameters in the query, and those in the body, `more`, that are not in it.

        Raises:
            ParameterInvalid: one is unknown, of another type or out of its range.
        """
        query: bytes = self.scope["query_string"]
        if not more and len(query) <= SHORT:
            found: P = _of_query(kind, query)
            return found
        pairs = _pairs(query)
        named = {name for name, _ in pairs}
        return kind.of(collected(kind, [*pairs, *(pair for pair in more if pair[0] not in named)]))

    def wanted_image(self, *, default: ImageFormat | None = None) -> ImageFormat | None:
        """The image format that `Accept` prefers, or None for JSON; ties go to what stands first.

        Who takes a page at least as gladly as an image has not asked for an image: old clients name HTML, GIF
        and JPEG without meaning any.

        Args:
            default: what `*/*` or no header means.
        """
        best: tuple[float, ImageFormat | None] = (0.0, default)
        choices = {
            **FORMATS,
            "text/html": default,
            "application/json": None,
            "application/*": None,
            "*/*": default,
        }
        for kind, weight in weighted(self.headers.get("accept", "*/*")):
            if kind in choices and weight > best[0]:
                best = (weight, choices[kind])
        return best[1]

    async def read(self, most: int) -> bytes:
        """The body as received; its memory is reserved as it comes, until the request has ended.

        Args:
            most: bytes.

        Raises:
            ImageTooLarge: it is longer, as declared or as counted.
            ClientDisconnect: the client left before its end.
            DeadlineExceeded: the body was not there in time.
            RequestTimeout: its sender paused for too long.
            OutOfMemory: the bodies of this worker have no more room.
        """
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise ImageTooLarge(f"the body has {declared} bytes; at most {most} are accepted")
        whole, size = None, 0
        while True:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size > most:
                raise ImageTooLarge(f"the body has more than {most} bytes, which is the most accepted")
            self.reserve(len(chunk))
            if whole is None:
                if not more:
                    return bytes(chunk)
                whole = io.BytesIO()
            whole.write(chunk)
            if not more:
                return whole.getvalue()  # without a copy: the buffer itself

    async def content(self, most: int, inflated: int | None = None, advice: str = "") -> bytes:
        """The body, inflated where it is compressed.

        Args:
            most: bytes as received.
            inflated: bytes of what it becomes; None: as many.
            advice: ends the error's text, where that is exceeded.

        Raises:
            Exception: as `read` and `Inflater`.
        """
        body = await self.read(most)
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return body
        inflater = Inflater(
            body, encoding, most if inflated is None else inflated, "Content-Encoding", advice
        )
        with Watch(self):
            return await inflater.whole(self.reserve, self.in_decoder)

    async def parse(self, body: bytes, work: Callable[[], T]) -> T:
        """What a parser makes of a body: at once if that is small, else in a decoding thread.

        Raises:
            DeadlineExceeded: it was not done in time.
        """
        if len(body) <= INLINE:
            return work()
        with Watch(self):
            return await self.in_decoder(work)

    async def in_decoder(self, work: Callable[[], T]) -> T:
        """Work that grows with a body, in a decoding thread; cancelled if it has not begun in time.

        Raises:
            DeadlineExceeded: it was not done by the request's deadline.
        """
        return await self.service.engine.in_decoder(work, self.context.deadline)

    def reserve(self, size: int) -> None:
        """Counts so many more bytes as the request's, until it has ended.

        Raises:
            OutOfMemory: the bodies of this worker have no more room.
        """
        if self.context.body is None:
            self.context.body = BodyReservation(self.service.engine.memory)
        self.context.body.grow(size)

    async def _next(self) -> Any:
        """What comes next of the request, within the deadline and the longest pause."""
        left, pause = self.context.deadline - time.monotonic(), self.service.settings.body_timeout_seconds
        try:
            async with asyncio.timeout(min(left, pause)):
                return await self.receive()
        except TimeoutError:
            if pause < left:
                raise RequestTimeout(f"nothing more of the body came in {pause:g} s") from None
            raise DeadlineExceeded("the deadline passed before the request was complete") from None


class Watch:
    """Cancels the request when its client leaves, so that its image leaves the queue. Needs a read body.

    The cancellation ends in the application, which distinguishes it from the server's own by `client_gone`.
    """

    __slots__ = ("_request", "_task", "_timer", "_watcher")

    def __init__(self, request: Request) -> None:
        self._request = request

    def __enter__(self) -> None:
        self._watcher: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(WATCHED_AFTER, self._begin)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._request.context.client_gone = True
        if self._task is not None:
            self._task.cancel()


def _pairs(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


@lru_cache(maxsize=SHORT)
def _of_query(kind: type[P], query: bytes) -> P:
    return kind.of(collected(kind, _pairs(query)))
