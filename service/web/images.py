"""Images in the body of a request: raw, as multipart fields, or as base64 in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from models.errors import ImageInvalid, MediaTypeUnsupported, ParameterInvalid, echoed
from service.oip.tensors import from_base64
from service.web.json_text import Structure, parse_json
from service.web.multipart import Malformed, boundary_of, split
from service.web.request import Request

RAW = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/x-ms-bmp", "application/octet-stream")
ACCEPTED = "image/jpeg, image/png, image/webp, image/bmp, multipart/form-data or application/json"
JSON = "application/json"
FORM = "multipart/form-data"
TEXTS: Final = 64
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
    kind = kind_of(content_type)
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


def kind_of(content_type: str) -> str:
    """The media type of a Content-Type, without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


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


async def read_images(request: Request, fields: Sequence[str]) -> dict[str, list[bytes]]:
    """The request's images by field, within the settings' limits. Raises as `images_plan`, `images_of` and
    `Request.read` do."""
    settings = request.service.settings
    plan = images_plan(
        request.headers,
        fields,
        max_image=settings.max_image_bytes,
        max_body=settings.max_body_bytes,
        max_images=settings.max_images,
    )
    body = await request.read(plan.most)
    if plan.kind in RAW:
        return {fields[0]: [body]}
    return await request.parse(body, partial(images_of, body, plan))


def only(images: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    """The one image of each field, without a reference to it in `images`.

    Raises:
        ParameterInvalid: a field has several.
    """
    for field, found in images.items():
        if len(found) > 1:
            raise ParameterInvalid(field, f"{len(found)} images named {field!r}; send one")
    return {field: found.pop() for field, found in images.items()}


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
            found[field] = [from_base64(text)]
        except ValueError:
            raise ImageInvalid(f"{field!r} is not valid base64") from None
    return found
