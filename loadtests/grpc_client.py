"""gRPC's side of the locust users: unary methods, whose messages the server's reflection describes.

Only locust's own files import this: gRPC is set up for gevent here, as in locust's documentation
(https://docs.locust.io/en/stable/testing-other-systems.html#grpc).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import grpc
import grpc.experimental.gevent
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from loadtests.answers import problem_in
from loadtests.asks import Ask
from loadtests.client import REQUEST
from loadtests.record import ERROR, OK, SHED, Request

grpc.experimental.gevent.init_gevent()
TIMEOUT = 60.0


def address_of(environment: Any) -> str:
    """gRPC's `host:port`: as given, or port 3001 of the HTTP host."""
    host: str = environment.host or ""
    return environment.parsed_options.grpc or f"{host.split('://')[-1].rsplit(':', 1)[0]}:3001"


class VisionClient:
    """Sends over several connections in turn, from several greenlets.

    Args:
        environment: locust's, where each request is reported.
        connections: each stays with one worker of the server.
    """

    def __init__(self, environment: Any, connections: int = 1) -> None:
        self._events = environment.events
        options = [("grpc.use_local_subchannel_pool", 1)]  # else they share a connection
        self._channels = [grpc.insecure_channel(address_of(environment), options) for _ in range(connections)]
        self._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self._channels[0]))
        self._calls: dict[str, Iterator[Any]] = {}

    def ask(self, what: Ask, due: float | None = None) -> None:
        """As `Client.ask`."""
        call = next(self._calls.get(what.path) or self._prepare(what.path))
        left = time.time()
        due = left if due is None else due
        problem, outcome, size, batch = "", OK, 0, None
        try:
            reply, done = call.with_call(what.body, timeout=TIMEOUT)
            size = reply.ByteSize()
            trailers = dict(done.trailing_metadata() or ())
            batch = int(trailers["x-batch-size"]) if "x-batch-size" in trailers else None
        except grpc.RpcError as error:
            seconds = time.time() - due
            outcome = SHED if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else ERROR
            problem = f"{error.code().name}: {error.details()}"
        else:
            seconds = time.time() - due
            document = MessageToDict(
                reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            problem = problem_in(document, what.check) or ""
            outcome = ERROR if problem else OK
        self._events.request.fire(
            request_type="grpc",
            name=what.name,
            response_time=1000 * seconds,
            response_length=size,
            exception=RuntimeError("refused" if outcome == SHED else problem) if problem else None,
            context={REQUEST: Request(what.name, due, left - due, seconds, outcome, problem, None, batch)},
        )

    def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels:
            channel.close()

    def _prepare(self, path: str) -> Iterator[Any]:
        service, method = path.strip("/").split("/")
        described = self._pool.FindServiceByName(service).methods_by_name[method]
        reply = message_factory.GetMessageClass(described.output_type)
        # a request is bytes already
        calls: list[Any] = [channel.unary_unary(path, None, reply.FromString) for channel in self._channels]
        self._calls[path] = cycle(calls)
        return self._calls[path]
