"""How images come in: the raw body, multipart fields, or base64 in JSON; all bounded before it is read."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect

from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported, ParameterInvalid, echoed
from service.web.call import ClientGone
from service.web.json_text import Structure, parse_json
from service.web.multipart import Malformed, boundary_of, split

Progress = Callable[[int], None]

RAW = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/x-ms-bmp", "application/octet-stream")
ACCEPTED = "image/jpeg, image/png, image/webp, image/bmp, multipart/form-data or application/json"


def images_body(*fields: str) -> dict[str, object]:
    """OpenAPI of a body that holds images under these names: the routes read it themselves."""

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
    return {"requestBody": {"required": True, "content": content}}


NEEDS_BODY = images_body("image")


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
    """The body as it came, of at most so many bytes.

    Args:
        request: its body is read here.
        progress: called with the size of each part that has come, before it is kept.
        most: bytes.

    Raises:
        ImageTooLarge: it is longer, as declared or as counted.
        ClientGone: the client hung up half way.
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
