"""How requests come in: images as the raw body, multipart fields or base64 in JSON; parameters as the query.

All of it is bounded before it is read; what grows with a body is not done in the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported, ParameterInvalid, echoed
from models.parameters import SEPARATOR, Parameters, groups
from service.errors import DeadlineExceeded, RequestTimeout
from service.web.context import ClientGone, context_of, service_of, while_connected
from service.web.json_text import Structure, parse_json
from service.web.multipart import Malformed, boundary_of, split

T = TypeVar("T")
P = TypeVar("P", bound=Parameters)
Progress = Callable[[int], None]

INLINE: Final = 64 * 1024
"""Bytes of a body that are parsed in the event loop, in a millisecond; more in a decoding thread."""

RAW = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/x-ms-bmp", "application/octet-stream")
ACCEPTED = "image/jpeg, image/png, image/webp, image/bmp, multipart/form-data or application/json"


def images_body(*fields: str) -> dict[str, object]:
    """OpenAPI's request body that holds images under these names: the routes read it themselves."""

    def form(image: dict[str, object]) -> dict[str, object]:
        return {
            "schema": {"type": "object", "properties": dict.fromkeys(fields, image), "required": list(fields)}
        }

    part: dict[str, object] = {"type": "string", "format": "binary"}
    several: dict[str, object] = {"type": "array", "items": part}
    content: dict[str, object] = {
        "multipart/form-data": form(several if len(fields) == 1 else part),
        "application/json": form({"type": "string", "format": "byte"}),
    }
    if len(fields) == 1:
        content |= {kind: {"schema": part} for kind in RAW[:4]}
    return {"required": True, "content": content}


JSON = "application/json"
FORM = "multipart/form-data"
TEXTS = 64
"""Most parts of a form that are no files."""

STRUCTURE = Structure(values=4096, lists=1024, objects=256, names=4096)
"""Of a JSON body of images: a few names and texts, and room for what is ignored."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a body is read and what is looked for in it.

    Attributes:
        kind: media type, in lower case; a raw one holds a single image.
        content_type: the whole header.
        fields: the names that images may have; each must be there.
        most: bytes of the body.
        max_images: most files of a form.
    """

    kind: str
    content_type: str
    fields: Sequence[str]
    most: int
    max_images: int

    @property
    def raw(self) -> bool:
        """Whether the body as a whole is the image."""
        return self.kind in RAW


def images_plan(
    headers: Mapping[str, str], fields: Sequence[str], *, max_image: int, max_body: int, max_images: int
) -> Plan:
    """What a request's headers say of its images.

    A raw body is the only field's image. A multipart body may repeat a field; JSON holds one base64 text
    for each.

    Args:
        headers: of the request, by names in lower case.
        fields: the names that images may have; each must be there.
        max_image: bytes of a raw image.
        max_body: bytes of a body with several images.
        max_images: most images.

    Raises:
        MediaTypeUnsupported: the declared type is none that holds images.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise MediaTypeUnsupported("a compressed body is not accepted; images are compressed already")
    content_type = headers.get("content-type", "application/octet-stream")
    kind = _kind(content_type)
    if kind == FORM:
        most = max_body
    elif kind == JSON:
        most = max_image * len(fields) * 4 // 3 + 4096  # base64 is longer by a third
    elif kind in RAW and len(fields) == 1:
        most = max_image
    else:
        accepted = ACCEPTED if len(fields) == 1 else "multipart/form-data or application/json"
        raise MediaTypeUnsupported(f"the content type {echoed(kind)} is not accepted; send {accepted}")
    return Plan(kind, content_type, fields, most, max_images)


def images_of(body: bytes, plan: Plan) -> dict[str, list[bytes]]:
    """The images of a body, by field.

    Raises:
        ImageInvalid: base64 that is none.
        ParameterInvalid: a field is missing, or there are too many images.
    """
    if plan.kind == FORM:
        found = _multipart(body, plan)
    elif plan.kind == JSON:
        found = _json(body, plan.fields)
    else:
        found = {plan.fields[0]: [body]}
    for field in plan.fields:
        if not found.get(field):
            raise ParameterInvalid(field, f"the body has no {field!r}: an image is needed there")
    return found


def check_json(headers: Mapping[str, str]) -> None:
    """
    Raises:
        MediaTypeUnsupported: the body is not declared as JSON.
    """
    kind = _kind(headers.get("content-type", JSON))
    if kind != JSON:
        raise MediaTypeUnsupported(f"the content type {echoed(kind)} is not accepted; send application/json")


async def read_body(request: Request, progress: Progress, most: int) -> bytes:
    """The body as received, of at most so many bytes.

    Args:
        request: its body is read here.
        progress: called with the size of each part that has come, before it is kept.
        most: bytes.

    Raises:
        ImageTooLarge: it is longer, as declared or as counted.
        ClientGone: the client disconnected before its end.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise ImageTooLarge(f"the body has {declared} bytes; at most {most} are accepted")
    first, rest, length = b"", None, 0
    try:
        async for chunk in request.stream():
            if not chunk:  # the last one
                continue
            length += len(chunk)
            if length > most:
                raise ImageTooLarge(f"the body has more than {most} bytes, which is the most accepted")
            progress(len(chunk))
            if length == len(chunk):
                first = chunk
                continue
            if rest is None:
                rest = io.BytesIO()
                rest.write(first)
                first = b""
            rest.write(chunk)
    except ClientDisconnect:
        raise ClientGone from None
    return first if rest is None else rest.getvalue()  # without a copy: the buffer itself


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _multipart(body: bytes, plan: Plan) -> dict[str, list[bytes]]:
    fields = plan.fields
    found: dict[str, list[bytes]] = {}
    files = texts = 0
    try:
        for part in split(body, boundary_of(plan.content_type), plan.max_images + TEXTS + 1):
            if not part.file:
                texts += 1
                if texts > TEXTS:
                    raise Malformed(f"more than {TEXTS} parts are text")
            else:
                files += 1
                if files > plan.max_images:
                    what = f"at most {plan.max_images} images are accepted in one request"
                    raise ParameterInvalid(fields[0], what)
            if part.name in fields:
                if not part.file:
                    raise ParameterInvalid(part.name, f"the part {part.name!r} is text; send it as a file")
                found.setdefault(part.name, []).append(body[part.start : part.end])
    except Malformed as error:
        raise ParameterInvalid(fields[0], f"malformed multipart body: {error}") from None
    return found


def _json(body: bytes, fields: Sequence[str]) -> dict[str, list[bytes]]:
    try:
        document = parse_json(body, STRUCTURE)
    except ValueError as exc:
        raise ParameterInvalid(fields[0], f"the body is not JSON: {exc}") from None
    if not isinstance(document, dict):
        raise ParameterInvalid(fields[0], "the body must be a JSON object")
    found = {}
    for field in fields:
        text = document.get(field)
        if text is None:
            continue
        if not isinstance(text, str):
            raise ParameterInvalid(field, f"{field!r} must be a string of base64")
        try:
            found[field] = [
                base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
            ]
        except (binascii.Error, ValueError):
            raise ImageInvalid(f"{field!r} is not valid base64") from None
    return found


def read_parameters(request: Request, kind: type[P]) -> P:
    """The parameters in a request's query; a name that comes again makes a list, others are ignored.

    Raises:
        ParameterInvalid: one is of another type or out of its range.
    """
    inner = groups(kind)
    given: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        group, separator, own = name.partition(SEPARATOR)
        if separator and group in inner:
            place, key, known = given.setdefault(group, {}), own, inner[group].model_fields
        else:
            place, key, known = given, name, kind.model_fields
        if key in known and key not in inner:
            before = place.get(key)
            place[key] = (
                text if before is None else [*(before if isinstance(before, list) else [before]), text]
            )
    for group, own_values in given.items():
        if group in inner:
            given[group] = _grouped(group, inner[group], own_values)
    return kind.of(given)


def _grouped(group: str, kind: type[Parameters], given: dict[str, Any]) -> Parameters:
    try:
        return kind.of(given)
    except ParameterInvalid as error:
        name = f"{group}{SEPARATOR}{error.parameter}"
        raise ParameterInvalid(name, f"{group}{SEPARATOR}{error}") from None


async def read_images(request: Request, fields: Sequence[str]) -> dict[str, list[bytes]]:
    """The request's images by field, within the settings' limits. See `images_plan`.

    Raises:
        DeadlineExceeded: the body was not there in time.
        RequestTimeout: its sender paused for too long.
        OutOfMemory: the bodies of this worker have no more room.
    """
    settings = service_of(request).settings
    plan = images_plan(
        request.headers,
        fields,
        max_image=settings.max_image_bytes,
        max_body=settings.max_body_bytes,
        max_images=settings.max_images,
    )
    body = await read_bounded(request, plan.most)
    if plan.raw:
        return {fields[0]: [body]}
    return await parsed(request, body, partial(images_of, body, plan))


async def read_bounded(request: Request, most: int) -> bytes:
    """The request's body as received, of at most so many bytes. See `read_body`.

    Its memory is reserved as it comes, until the request has ended. Raises as `read_images` does.
    """
    async with _in_time(request) as progress:
        return await read_body(request, progress, most)


async def read_json(request: Request, most: int) -> bytes:
    """The request's body, which must be declared as JSON. Raises as `read_images` does.

    Raises:
        MediaTypeUnsupported: it is not declared as JSON.
    """
    check_json(request.headers)
    return await read_bounded(request, most)


async def parsed(request: Request, body: bytes, work: Callable[[], T]) -> T:
    """What a parser makes of a body: at once if that is small, else in a decoding thread.

    Raises:
        DeadlineExceeded: it was not done in time.
    """
    if len(body) <= INLINE:
        return work()
    async with while_connected(request):
        return await in_decoder(request, work)


async def in_decoder(request: Request, work: Callable[[], T]) -> T:
    """Work that grows with a body, in a decoding thread; cancelled if it has not begun in time.

    Raises:
        DeadlineExceeded: it was not done by the request's deadline.
    """
    try:
        async with asyncio.timeout(context_of(request).deadline - time.monotonic()):
            return await service_of(request).engine.in_decoder(work)
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the request was parsed") from None


def reserve(request: Request, size: int) -> None:
    """Counts so many more bytes as the request's, until it has ended.

    Raises:
        OutOfMemory: the bodies of this worker have no more room.
    """
    context = context_of(request)
    if context.body is None:
        context.body = service_of(request).engine.memory.body()
    context.body.grow(size)


@asynccontextmanager
async def _in_time(request: Request) -> AsyncIterator[Progress]:
    """Ends the reading of a body at the request's deadline, or when nothing more of it comes.

    Gives what is to be called with the number of bytes when some have come, before they are kept.
    """
    deadline, pause = context_of(request).deadline, service_of(request).settings.body_timeout_seconds
    loop = asyncio.get_running_loop()
    paused = False  # whether the pause is what ends first

    def seconds() -> float:
        nonlocal paused
        left = deadline - time.monotonic()
        paused = pause < left
        return pause if paused else left

    try:
        async with asyncio.timeout(seconds()) as limit:

            def progress(size: int) -> None:
                reserve(request, size)
                limit.reschedule(loop.time() + seconds())

            yield progress
    except TimeoutError:
        if paused:
            raise RequestTimeout(f"nothing more of the body came in {pause:g} s") from None
        raise DeadlineExceeded("the deadline passed before the request was complete") from None
