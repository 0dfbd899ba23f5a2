"""The one table of errors: code, HTTP status, gRPC status and metric label of each.

The transports (`web`, `rpc`) take every status from `problem_of(exc)`. Messages are public.
`python -m service.errors` prints the table of docs/errors.md.
The codes, statuses and media type follow RFC 9457 (problem details for HTTP APIs) and the canonical gRPC
status codes. This module imports `models.errors` alone, so that the batcher may import it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from models import errors as science

DETAIL = 2000
"""Characters of an error's text: the last bound, where a client's text is repeated elsewhere."""


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the table.

    Attributes:
        code: stable, machine-readable; also the metric label.
        title: the same for every occurrence (RFC 9457).
        http: status.
        grpc: name of the canonical status code.
    """

    code: str
    title: str
    http: int
    grpc: str


INTERNAL = ErrorKind("internal", "Internal error", 500, "INTERNAL")
"""Anything else: logged with its trace and the request's id."""


class ServiceError(Exception):
    """Base of the service's own errors; the docstring of each says when it happens, for clients too.

    Attributes:
        detail: public.
        retry_after: seconds in which trying again makes sense, or None.
    """

    kind: ClassVar[ErrorKind]
    retry_after: float | None = None

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if retry_after is not None:
            self.retry_after = retry_after


class Overloaded(ServiceError):
    """The model's queue is full, or the client holds its share of the jobs or of the event streams."""

    kind = ErrorKind("overloaded", "Overloaded", 429, "RESOURCE_EXHAUSTED")


class NotReady(ServiceError):
    """Starting or draining, the model's runner failed, or the process that computes has ended: try again."""

    kind = ErrorKind("not_ready", "Not ready", 503, "UNAVAILABLE")
    retry_after = 1.0


class OutOfMemory(ServiceError, MemoryError):
    """One image does not fit into the device's free memory, or the worker's memory for requests is taken."""

    kind = ErrorKind("out_of_memory", "Out of memory", 503, "RESOURCE_EXHAUSTED")
    retry_after = 1.0


class DeadlineExceeded(ServiceError):
    """The client's or the server's time ran out."""

    kind = ErrorKind("deadline_exceeded", "Deadline exceeded", 504, "DEADLINE_EXCEEDED")


class RequestTimeout(ServiceError):
    """The client paused for too long in the middle of its body."""

    kind = ErrorKind("request_timeout", "Request timeout", 408, "DEADLINE_EXCEEDED")


class HeaderTooLarge(ServiceError):
    """The request line and the headers have more than 32 KiB."""

    kind = ErrorKind("header_too_large", "Request header too large", 431, "RESOURCE_EXHAUSTED")


class KeyBusy(ServiceError):
    """The API key has `LYNCEUS_KEY_CONCURRENCY` requests under way."""

    kind = ErrorKind("key_busy", "The API key is busy", 429, "RESOURCE_EXHAUSTED")
    retry_after = 1.0


class Unauthenticated(ServiceError):
    """API keys are set and the request carries none of them."""

    kind = ErrorKind("unauthenticated", "Unauthenticated", 401, "UNAUTHENTICATED")


class NotSupported(ServiceError):
    """This installation lacks torch, which jobs, layers, filters and most explanations take."""

    kind = ErrorKind("not_supported", "Not supported here", 501, "UNIMPLEMENTED")


class JobUnknown(ServiceError):
    """No job of that id: it has expired, or belongs to another API key."""

    kind = ErrorKind("job_unknown", "Unknown job", 404, "NOT_FOUND")


class JobUnfinished(ServiceError):
    """There is no result or preview yet."""

    kind = ErrorKind("job_unfinished", "Unfinished job", 409, "FAILED_PRECONDITION")


class JobFinished(ServiceError):
    """The job is over: nothing to cancel, or there will be no result."""

    kind = ErrorKind("job_finished", "Finished job", 409, "FAILED_PRECONDITION")


class StorageFailed(ServiceError):
    """Jobs cannot be kept: the disk of `LYNCEUS_STATE_DIR` refuses, or the Redis of `LYNCEUS_JOBS`."""

    kind = ErrorKind("storage_failed", "Jobs cannot be stored", 503, "UNAVAILABLE")
    retry_after = 10.0


class NotFound(ServiceError):
    """No such route."""

    kind = ErrorKind("not_found", "Not found", 404, "NOT_FOUND")


class MethodNotAllowed(ServiceError):
    """The route has no such method.

    Attributes:
        allowed: the methods that it has.
    """

    def __init__(self, detail: str, allowed: Iterable[str]) -> None:
        super().__init__(detail)
        self.allowed = ", ".join(allowed)

    kind = ErrorKind("method_not_allowed", "Method not allowed", 405, "UNIMPLEMENTED")


TABLE: dict[type[Exception], ErrorKind] = {
    science.ImageInvalid: ErrorKind("image_invalid", "The image does not decode", 400, "INVALID_ARGUMENT"),
    science.ImageTooLarge: ErrorKind("image_too_large", "The image is too large", 413, "INVALID_ARGUMENT"),
    science.MediaTypeUnsupported: ErrorKind("media_type", "Unsupported media type", 415, "INVALID_ARGUMENT"),
    science.ParameterInvalid: ErrorKind("parameter_invalid", "Invalid parameter", 422, "INVALID_ARGUMENT"),
    science.FaceNotFound: ErrorKind("face_not_found", "No face found", 422, "FAILED_PRECONDITION"),
    science.FacesMany: ErrorKind("faces_many", "More than one face found", 422, "FAILED_PRECONDITION"),
    science.ModelUnknown: ErrorKind("model_unknown", "Unknown model", 404, "NOT_FOUND"),
    science.StyleUnknown: ErrorKind("style_unknown", "Unknown style", 404, "NOT_FOUND"),
    **{error: error.kind for error in ServiceError.__subclasses__()},
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as clients see it.

    Attributes:
        kind: the row of the table.
        detail: what was wrong with this request.
        parameter: the offending parameter, where there is one.
        image: which of several images (``a``, ``b``), where that matters.
        retry_after: seconds, where trying again makes sense.
    """

    kind: ErrorKind
    detail: str
    parameter: str | None = None
    image: str | None = None
    retry_after: float | None = None

    def body(self) -> dict[str, object]:
        """The members of an `application/problem+json` document."""
        members = {
            "type": f"urn:lynceus:problem:{self.kind.code}",
            "title": self.kind.title,
            "status": self.kind.http,
            "code": self.kind.code,
            "detail": self.detail,
            "parameter": self.parameter,
            "image": self.image,
        }
        return {name: value for name, value in members.items() if value is not None}


def problem_of(exc: BaseException) -> Problem:
    """Finds an exception's row by its class or the nearest of its bases; anything unknown is `internal`.

    The detail of an internal error says nothing of its cause: the caller logs it with its trace.
    """
    for cls in type(exc).__mro__:
        kind = TABLE.get(cls)
        if kind is not None:
            return Problem(
                kind,
                str(exc)[:DETAIL],
                parameter=getattr(exc, "parameter", None),
                image=getattr(exc, "image", None),
                retry_after=getattr(exc, "retry_after", None),
            )
    return Problem(INTERNAL, "The server failed to answer this request; the log has the cause.")


def main() -> None:
    """Prints the table in Markdown."""
    print("| code | HTTP | gRPC | when |\n| --- | --- | --- | --- |")
    for error, kind in TABLE.items():
        when = " ".join(inspect.cleandoc(error.__doc__ or "").partition("\n\n")[0].split())
        print(f"| `{kind.code}` | {kind.http} | {kind.grpc} | {when} |")
    when = "Anything else: logged with its trace and the request's id."
    print(f"| `{INTERNAL.code}` | {INTERNAL.http} | {INTERNAL.grpc} | {when} |")


if __name__ == "__main__":
    main()
