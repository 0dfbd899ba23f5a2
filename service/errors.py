"""The one table of errors: code, HTTP status, gRPC status and metric label of each.

The transports (`web`, `rpc`) take every status from `problem_of(exc)`. Messages are public.
`python -m service.errors` prints the table of docs/errors.md.
The codes, statuses and media type follow RFC 9457 (problem details for HTTP APIs) and the canonical gRPC
status codes. This module imports `models.errors` alone, so that the batcher may import it.
"""

from __future__ import annotations

from dataclasses import dataclass

from models import errors as science


class ServiceError(Exception):
    """Base of the service's own errors. `detail` is public."""

    retry_after: float | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Overloaded(ServiceError):
    """The queue is full. `retry_after`: seconds until it should have drained, as measured."""

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotReady(ServiceError):
    """Starting, draining, or this model's runner failed. `retry_after` in seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class OutOfMemory(ServiceError, MemoryError):
    """One image alone does not fit into the device's free memory. `retry_after` in seconds."""

    retry_after = 1.0


class DeadlineExceeded(ServiceError):
    """The client's or the server's deadline passed before the answer was there."""


class RequestTimeout(ServiceError):
    """The client paused for too long in the middle of its request."""


class HeaderTooLarge(ServiceError):
    """The line and the headers of a request are longer than any client needs."""


class KeyBusy(ServiceError):
    """The API key has as many requests under way as it may. `retry_after` in seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unauthenticated(ServiceError):
    """API keys are set and the request carries none that fits."""


class JobUnknown(ServiceError):
    """No job of that id."""


class JobUnfinished(ServiceError):
    """The job has no result yet."""


class JobFinished(ServiceError):
    """The job is over: there is nothing to cancel, or there will be no result."""


class StorageFailed(ServiceError):
    """Jobs cannot be stored on the disk. `retry_after` in seconds."""

    def __init__(self, detail: str, retry_after: float = 10.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotFound(ServiceError):
    """No such route."""


class MethodNotAllowed(ServiceError):
    """The route exists, the method does not."""


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the table.

    Attributes:
        code: stable, machine-readable; also the metric label.
        title: the same for every occurrence (RFC 9457).
        http: status.
        grpc: name of the canonical status code.
        when: it happens, for the documents.
    """

    code: str
    title: str
    http: int
    grpc: str
    when: str


DETAIL = 2000
"""Characters of an error's text: the last bound, where a client's text is repeated elsewhere."""

INTERNAL = ErrorKind(
    "internal", "Internal error", 500, "INTERNAL", "anything else: logged with its trace and the request's id"
)

TABLE: dict[type[Exception], ErrorKind] = {
    science.ImageInvalid: ErrorKind(
        "image_invalid",
        "The image does not decode",
        400,
        "INVALID_ARGUMENT",
        "the bytes do not decode, are cut short, are no base64, hold no pixels, or are of a kind of JPEG "
        "that is not supported (lossless, arithmetic-coded, hierarchical, 12-bit)",
    ),
    science.ImageTooLarge: ErrorKind(
        "image_too_large",
        "The image is too large",
        413,
        "INVALID_ARGUMENT",
        "over a limit of bytes, pixels or memory, determined from the header before decoding; "
        "a JSON text of `/v2` past its limits, which binary tensors are not",
    ),
    science.MediaTypeUnsupported: ErrorKind(
        "media_type",
        "Unsupported media type",
        415,
        "INVALID_ARGUMENT",
        "no accepted format, by declaration or by the bytes",
    ),
    science.ParameterInvalid: ErrorKind(
        "parameter_invalid",
        "Invalid parameter",
        422,
        "INVALID_ARGUMENT",
        "a parameter, named in `parameter`, is unknown, missing, of another type or out of its range",
    ),
    science.FaceNotFound: ErrorKind(
        "face_not_found",
        "No face found",
        422,
        "FAILED_PRECONDITION",
        "no face in an image that must have one; `image` says whether `a` or `b`",
    ),
    science.FacesMany: ErrorKind(
        "faces_many",
        "More than one face found",
        422,
        "FAILED_PRECONDITION",
        "several faces with `face_select=only`; `image` says whether `a` or `b`",
    ),
    science.ModelUnknown: ErrorKind(
        "model_unknown",
        "Unknown model",
        404,
        "NOT_FOUND",
        "no such model is served, or it is of another kind",
    ),
    science.StyleUnknown: ErrorKind(
        "style_unknown",
        "Unknown style",
        404,
        "NOT_FOUND",
        "the network has no such style",
    ),
    JobUnknown: ErrorKind(
        "job_unknown",
        "Unknown job",
        404,
        "NOT_FOUND",
        "no job of that id: it has expired, or belongs to another API key",
    ),
    JobUnfinished: ErrorKind(
        "job_unfinished",
        "Unfinished job",
        409,
        "FAILED_PRECONDITION",
        "there is no result or preview yet",
    ),
    JobFinished: ErrorKind(
        "job_finished",
        "Finished job",
        409,
        "FAILED_PRECONDITION",
        "the job is over: nothing to cancel, or there will be no result",
    ),
    StorageFailed: ErrorKind(
        "storage_failed",
        "Jobs cannot be stored",
        503,
        "UNAVAILABLE",
        "the disk of `LYNCEUS_STATE_DIR` refuses to keep jobs",
    ),
    NotFound: ErrorKind(
        "not_found",
        "Not found",
        404,
        "NOT_FOUND",
        "no such route",
    ),
    MethodNotAllowed: ErrorKind(
        "method_not_allowed",
        "Method not allowed",
        405,
        "UNIMPLEMENTED",
        "the route has no such method",
    ),
    Overloaded: ErrorKind(
        "overloaded",
        "Overloaded",
        429,
        "RESOURCE_EXHAUSTED",
        "the model's queue is full, or the client holds its share of the jobs or of the event streams",
    ),
    NotReady: ErrorKind(
        "not_ready",
        "Not ready",
        503,
        "UNAVAILABLE",
        "starting or draining, or the model's runner failed",
    ),
    OutOfMemory: ErrorKind(
        "out_of_memory",
        "Out of memory",
        503,
        "RESOURCE_EXHAUSTED",
        "one image alone does not fit into the device's free memory, or the worker's "
        "memory for bodies and decoded images is taken",
    ),
    DeadlineExceeded: ErrorKind(
        "deadline_exceeded",
        "Deadline exceeded",
        504,
        "DEADLINE_EXCEEDED",
        "the client's or the server's time ran out",
    ),
    RequestTimeout: ErrorKind(
        "request_timeout",
        "Request timeout",
        408,
        "DEADLINE_EXCEEDED",
        "the client paused for too long in the middle of its body",
    ),
    HeaderTooLarge: ErrorKind(
        "header_too_large",
        "Request header too large",
        431,
        "RESOURCE_EXHAUSTED",
        "the request line and the headers have more than 32 KiB",
    ),
    KeyBusy: ErrorKind(
        "key_busy",
        "The API key is busy",
        429,
        "RESOURCE_EXHAUSTED",
        "the API key has `LYNCEUS_KEY_CONCURRENCY` requests under way",
    ),
    Unauthenticated: ErrorKind(
        "unauthenticated",
        "Unauthenticated",
        401,
        "UNAUTHENTICATED",
        "API keys are set and the request carries none of them",
    ),
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
        members: dict[str, object] = {
            "type": f"urn:lynceus:problem:{self.kind.code}",
            "title": self.kind.title,
            "status": self.kind.http,
            "code": self.kind.code,
            "detail": self.detail,
        }
        if self.parameter is not None:
            members["parameter"] = self.parameter
        if self.image is not None:
            members["image"] = self.image
        return members


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
    for kind in (*TABLE.values(), INTERNAL):
        print(f"| `{kind.code}` | {kind.http} | {kind.grpc} | {kind.when} |")


if __name__ == "__main__":
    main()
