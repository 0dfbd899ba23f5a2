"""Around every RPC: the key, the id, the metrics, and the one map from errors to statuses."""

from __future__ import annotations

import asyncio
from asyncio import Semaphore
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Final, TypeAlias

import grpc

from service.app import Service
from service.engine.memory import BodyReservation
from service.errors import INTERNAL, Overloaded
from service.request import RequestContext, request_id
from service.rpc.context import (
    Call,
    current,
    deadline_of,
    details_of,
    in_trailers,
    trailers,
)
from service.rpc.receive import COPIES, Frames, Method
from service.rpc.wire import USUAL, Bounds

OPEN = ("/grpc.health.v1.", "/grpc.reflection.")
"""Answered without a key: probes have none, and the protos are public."""

UNCOUNTED: Final = 64 * 1024
"""Bytes of a reply whose memory is not counted: as much as a client takes in unread."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

OPEN_STREAMS = 256
"""Streams without a key that a worker has at once: watchers of its health, and reflection."""


class RequestInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service.

    Args:
        service: whose settings, keys, metrics and log are used.
        tasks: label of metrics by full method name; others are not counted.
        bounds: of messages by full method name, where they are not the usual ones.
    """

    def __init__(self, service: Service, tasks: Mapping[str, str], bounds: Mapping[str, Bounds]) -> None:
        self._service = service
        self._handlers: dict[str, Handler] = {}
        limit = service.settings.max_connections  # and as many again of calls that need no key
        self._calls, self._open_calls = Semaphore(limit), Semaphore(limit)
        self._open_streams = Semaphore(OPEN_STREAMS)
        self._tasks, self._bounds = tasks, bounds
        for task in tasks.values():  # created at the start, so that a rate sees its first rise
            service.metrics.requests.labels(task, "grpc", INTERNAL.code)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Gives the method's handler, wrapped; None where there is no such method."""
        handler = await continuation(handler_call_details)
        name = handler_call_details.method
        if handler is None:
            return None
        if name not in self._handlers:
            self._handlers[name] = self._wrapped(name, handler)
        return self._handlers[name]

    def _wrapped(self, name: str, handler: Any) -> Handler:
        """Every method is registered as taking a stream: so this code controls when a message is read."""
        is_open = name.startswith(OPEN)
        service, write = self._service, handler.response_serializer
        parse = handler.request_deserializer
        bounds = self._bounds.get(name, USUAL)
        method = Method(service.engine, service.settings, name, parse, bounds, is_open=is_open)
        if not handler.response_streaming:
            places = self._open_calls if is_open else self._calls
            answer = self._single(name, places, method, handler.unary_unary)
            return grpc.stream_unary_rpc_method_handler(answer, None, write)

        async def one_message(call: Call) -> AsyncIterator[Any]:
            with BodyReservation(method.memory) as body:
                async for reply in handler.unary_stream(await method.single(call, body), call):
                    yield reply

        async def messages(call: Call) -> AsyncIterator[Any]:
            with Frames[Any](method, call) as frames:
                async for reply in handler.stream_stream(frames.messages() if is_open else frames, call):
                    yield reply

        places = self._open_streams if is_open else self._calls
        replies = messages if handler.request_streaming else one_message
        return grpc.stream_stream_rpc_method_handler(self._stream(name, places, replies), None, write)

    def _single(self, name: str, places: Semaphore, method: Method, behaviour: Any) -> Any:
        async def answer(_: object, call: Call) -> Any:
            with self._call(name, call) as context:
                async with _place(places):
                    self._authorize(name, context, call)
                    with BodyReservation(method.memory) as body:
                        message = await method.single(call, body)
                        reply = await behaviour(message, call)
                if (held := self._held(reply)) is not None:
                    call.add_done_callback(lambda _: held.__exit__())  # type: ignore[arg-type]
                return reply

        return answer

    def _stream(self, name: str, places: Semaphore, replies: Callable[[Call], AsyncIterator[Any]]) -> Any:
        async def answer(_: object, call: Call) -> AsyncIterator[Any]:
            with self._call(name, call) as context:
                async with _place(places):
                    self._authorize(name, context, call)
                    async for reply in replies(call):
                        with self._held(reply) or nullcontext():
                            yield reply

        return answer

    @contextmanager
    def _call(self, name: str, call: Call) -> Iterator[RequestContext]:
        """Around a call: its context, trailers and record; an error ends it with its status."""
        context = RequestContext(
            "grpc", request_id(_texts(call.invocation_metadata()).get("x-request-id")), self._tasks.get(name)
        )
        context.deadline = deadline_of(call, self._service.settings.timeout_seconds)
        current.set(context)
        is_open, status = name.startswith(OPEN), "OK"
        if self._service.tracing is not None and not is_open:
            context.span = self._service.tracing.rpc(name, call.invocation_metadata() or ())
        try:
            yield context
            call.set_trailing_metadata(trailers(context))
        except (asyncio.CancelledError, GeneratorExit):
            # gRPC cancels a call both when its client leaves and when the client's deadline passes
            context.code = "deadline_exceeded" if call.time_remaining() == 0 else "cancelled"
            status = context.code.upper()
            raise
        except Exception as exc:
            status = self._refuse(context, call, exc)
        finally:
            if context.span is not None:
                context.span.end_rpc(status, context.code, context.request_id)
            self._service.log.finish(context, name, status, logged=not is_open)

    def _held(self, reply: Any) -> BodyReservation | None:
        """The memory of a large reply, which gRPC keeps until its client has read it; None of a small one.

        Raises:
            OutOfMemory: too much of it has not been read.
        """
        size = reply.ByteSize()
        if size <= UNCOUNTED:
            return None
        body = BodyReservation(self._service.engine.memory)
        body.grow(COPIES * size)
        return body

    def _authorize(self, name: str, context: RequestContext, call: Call) -> None:
        """Checks the key before a message is read: without one nothing is uploaded."""
        auth = self._service.auth
        if auth.required and not name.startswith(OPEN):
            given = _texts(call.invocation_metadata())
            context.key = auth.acquire(given.get("authorization"), given.get("x-api-key"))

    def _refuse(self, context: RequestContext, call: Call, exc: Exception) -> str:
        """Ends the call with the error's status, which it returns."""
        problem = in_trailers(context.problem_of(exc))
        context.code = problem.kind.code
        call.set_code(grpc.StatusCode[problem.kind.grpc])
        call.set_details(problem.detail)
        call.set_trailing_metadata([*trailers(context), details_of(problem, context)])
        return problem.kind.grpc


def _place(places: Semaphore) -> Semaphore:
    """Room for one more call, which does not wait for it.

    Raises:
        Overloaded: there is none.
    """
    if places.locked():
        raise Overloaded("this server answers as many calls as it may", 1.0)
    return places


def _texts(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """A call's metadata that is text, by name."""
    return {name: value for name, value in metadata or () if isinstance(value, str)}
