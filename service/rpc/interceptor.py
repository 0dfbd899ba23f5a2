"""Around every RPC: the key, the id, the metrics, and the one map from errors to statuses."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import grpc

from service.access import Access
from service.errors import INTERNAL, Unauthenticated, problem_of
from service.journal import Journal
from service.metrics import Metrics
from service.rpc.call import Call, Places, code_of, current, details_of, in_trailers, trailers
from service.rpc.receive import Method, Receiver
from service.tracing import Tracing

logger = logging.getLogger(__name__)

ID = re.compile(r"[\x21-\x7e]{1,128}")
OPEN = ("/grpc.health.v1.", "/grpc.reflection.")
"""Answered without a key: probes have none, and the protos are public."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

OPEN_STREAMS = 256
"""Streams of those without a key that a worker has at once: watchers of its health, and reflection."""


class Envelope(grpc.aio.ServerInterceptor):
    """Wraps every method of every service.

    Args:
        access: who may ask.
        metrics: where calls are counted.
        journal: where they are logged.
        tasks: label for the metrics by full method name; others are not counted.
        receiver: takes the messages in.
        most: calls at once; as many again that need no key.
        tracing: where spans go, if anywhere.
    """

    def __init__(
        self,
        access: Access,
        metrics: Metrics,
        journal: Journal,
        tasks: dict[str, str],
        receiver: Receiver,
        most: int,
        tracing: Tracing | None = None,
    ) -> None:
        self._receiver = receiver
        self._handlers: dict[str, Handler] = {}
        self._calls, self._open_calls, self._open_streams = Places(most), Places(most), Places(OPEN_STREAMS)
        self._access = access
        self._tracing = tracing
        self._journal = journal
        self._requests = metrics.requests
        self._seconds = metrics.request_seconds
        self._tasks = tasks
        for task in tasks.values():  # there from the start, or its first rise is none
            metrics.requests.labels(task, "grpc", INTERNAL.code)

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
        if not name.startswith(OPEN) and not self._known(handler_call_details):
            # before its message is read: a stranger uploads nothing
            return grpc.stream_stream_rpc_method_handler(self._stream(name, self._calls, _nothing))
        if name not in self._handlers:
            self._handlers[name] = self._wrapped(name, handler)
        return self._handlers[name]

    def _wrapped(self, name: str, handler: Any) -> Handler:
        """To gRPC every method takes a stream: only so it is ours when and how a message is read."""
        is_open = name.startswith(OPEN)
        receiver, write = self._receiver, handler.response_serializer
        method = receiver.method(name, handler.request_deserializer, is_open=is_open)
        if not handler.response_streaming:
            places = self._open_calls if is_open else self._calls
            answer = self._single(name, places, method, handler.unary_unary)
            return grpc.stream_unary_rpc_method_handler(answer, None, write)

        async def one_message(context: Context) -> AsyncIterator[Any]:
            with receiver.body() as body:
                async for reply in handler.unary_stream(
                    await receiver.single(context, method, body), context
                ):
                    yield reply

        async def messages(context: Context) -> AsyncIterator[Any]:
            with receiver.stream(context, method) as frames:
                async for reply in handler.stream_stream(frames.messages() if is_open else frames, context):
                    yield reply

        places = self._open_streams if is_open else self._calls
        replies = messages if handler.request_streaming else one_message
        return grpc.stream_stream_rpc_method_handler(self._stream(name, places, replies), None, write)

    def _known(self, details: grpc.HandlerCallDetails) -> bool:
        metadata = details.invocation_metadata
        try:
            self._access.check(_value(metadata, "authorization"), _value(metadata, "x-api-key"))
        except Unauthenticated:
            return False
        return True

    def _single(self, name: str, places: Places, method: Method, behaviour: Any) -> Any:
        async def answer(_: object, context: Context) -> Any:
            call = self._begin(name, context)
            code, status = "ok", "OK"
            try:
                self._admit(call, context, places)
                with self._receiver.body() as body:
                    message = await self._receiver.single(context, method, body)
                    reply = await behaviour(message, context)
                context.set_trailing_metadata(trailers(call))
                return reply
            except asyncio.CancelledError:
                code = _left(context)
                status = code.upper()
                raise
            except Exception as exc:
                code, status = self._refuse(call, context, exc)
            finally:
                self._end(name, call, code, status)

        return answer

    def _stream(self, name: str, places: Places, replies: Callable[[Context], AsyncIterator[Any]]) -> Any:
        async def answer(_: object, context: Context) -> AsyncIterator[Any]:
            call = self._begin(name, context)
            code, status = "ok", "OK"
            try:
                self._admit(call, context, places)
                async for reply in replies(context):
                    yield reply
                context.set_trailing_metadata(trailers(call))
            except (asyncio.CancelledError, GeneratorExit):
                code = _left(context)
                status = code.upper()
                raise
            except Exception as exc:
                code, status = self._refuse(call, context, exc)
            finally:
                self._end(name, call, code, status)

        return answer

    def _begin(self, name: str, context: Context) -> Call:
        call = Call(_request_id(context), self._tasks.get(name), is_open=name.startswith(OPEN))
        current.set(call)
        if self._tracing is not None and not call.is_open:
            call.span = self._tracing.rpc(name, context.invocation_metadata() or ())
        return call

    def _admit(self, call: Call, context: Context, places: Places) -> None:
        places.enter()
        call.places = places
        if self._access.required and not call.is_open:
            call.key = self._access.enter(_header(context, "authorization"), _header(context, "x-api-key"))

    def _refuse(self, call: Call, context: Context, exc: Exception) -> tuple[str, str]:
        """Ends the call as the table says; gives the problem's code and the status."""
        problem = in_trailers(problem_of(exc))
        if problem.kind is INTERNAL:
            logger.error("request %s failed", call.name, exc_info=exc)
        context.set_code(code_of(problem))
        context.set_details(problem.detail)
        context.set_trailing_metadata([*trailers(call), details_of(problem, call)])
        return problem.kind.code, problem.kind.grpc

    def _end(self, name: str, call: Call, code: str, status: str) -> None:
        if call.places is not None:
            call.places.leave()
        if call.key is not None:
            self._access.leave(call.key)
        trace_id = None
        if call.span is not None:
            trace_id = call.span.trace_id
            call.span.end_rpc(status, code, call.request_id)
        if self._journal.enabled and not call.is_open:
            seconds = time.monotonic() - call.started
            self._journal.record("grpc", name, status, code, call.request_id, seconds, call.trace, trace_id)
        if call.task is not None:
            self._requests.labels(call.task, "grpc", code).inc()
            self._seconds.labels(call.task, "grpc").observe(time.monotonic() - call.started)


async def _nothing(context: Context) -> AsyncIterator[Any]:
    """For those whom `_admit` will refuse."""
    replies: tuple[Any, ...] = ()
    for reply in replies:
        yield reply


def _left(context: Context) -> str:
    """gRPC cancels a call both when its client leaves and when the client's deadline passes."""
    return "deadline_exceeded" if context.time_remaining() == 0 else "cancelled"


def _header(context: Context, name: str) -> str | None:
    return _value(context.invocation_metadata(), name)


def _value(metadata: Iterable[tuple[str, str | bytes]] | None, name: str) -> str | None:
    for key, value in metadata or ():
        if key == name:
            return value if isinstance(value, str) else None
    return None


def _request_id(context: Context) -> str:
    given = _header(context, "x-request-id")
    return given if given is not None and ID.fullmatch(given) else uuid.uuid4().hex
