"""Images in the body of a request: raw, as multipart fields, or as base64 in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from models.errors import ImageInvalid, MediaTypeUnsupported, ParameterInvalid, echoed
from models.headers.accepted import MEDIA_TYPES
from service.oip.tensors import from_base64
from service.web.json_text import Structure, parse_json
from service.web.multipart import Malformed, boundary_of, split
from service.web.request import Request

RAW = (*MEDIA_TYPES, "image/x-ms-bmp", "image/heif", "application/octet-stream")
JSON = "application/json"
FORM = "multipart/form-data"
TEXTS: Final = 64
"""Most parts of a form that are no files."""

STRUCTURE = Structure(values=4096, lists=1024, objects=256, names=4096)
"""Of a JSON body of images: a few names and texts, and room for what is ignored."""


def kind_of(content_type: str) -> str:
    """The media type of a Content-Type, without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def images_of(body: bytes, content_type: str, fields: Sequence[str], most: int) -> dict[str, list[bytes]]:
    """The images of a form, which may repeat a field, or of JSON, with one base64 text for each; by field.

    Args:
        body: of the request.
        content_type: the whole header.
        fields: the names that images may have; each must be there.
        most: files of a form.

    Raises:
        ImageInvalid: base64 that is none.
        ParameterInvalid: a field is missing, or there are too many images.
    """
    is_form = kind_of(content_type) == FORM
    found = _multipart(body, content_type, fields, most) if is_form else _json(body, fields)
    for field in fields:
        if not found.get(field):
            raise ParameterInvalid(field, f"the body has no {field!r}: an image is needed there")
    return found


async def read_images(request: Request, fields: Sequence[str]) -> dict[str, list[bytes]]:
    """The request's images by field, within the settings' limits. A raw body is the only field's image.

    Raises:
        MediaTypeUnsupported: the declared type is none that holds images.
        Exception: as `Request.read` and `images_of`.
    """
    settings, headers = request.service.settings, request.headers
    if headers.get("content-encoding", "identity") != "identity":
        raise MediaTypeUnsupported("a compressed body is not accepted; images are compressed already")
    content_type = headers.get("content-type", "application/octet-stream")
    kind = kind_of(content_type)
    # base64 is longer by a third
    limits = {FORM: settings.max_body_bytes, JSON: settings.max_image_bytes * len(fields) * 4 // 3 + 4096}
    if len(fields) == 1:
        limits |= dict.fromkeys(RAW, settings.max_image_bytes)
    if kind not in limits:
        accepted = ", ".join(limits)
        raise MediaTypeUnsupported(f"the content type {echoed(kind)} is not accepted; send one of {accepted}")
    body = await request.read(limits[kind])
    if kind in RAW:
        return {fields[0]: [body]}
    return await request.parse(body, partial(images_of, body, content_type, fields, settings.max_images))


def only(images: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    """The one image of each field, without a reference to it in `images`.

    Raises:
        ParameterInvalid: a field has several.
    """
    for field, found in images.items():
        if len(found) > 1:
            raise ParameterInvalid(field, f"{len(found)} images named {field!r}; send one")
    return {field: found.pop() for field, found in images.items()}


def _multipart(body: bytes, content_type: str, fields: Sequence[str], most: int) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    files = texts = 0
    try:
        for part in split(body, boundary_of(content_type), most + TEXTS + 1):
            if not part.file:
                texts += 1
                if texts > TEXTS:
                    raise Malformed(f"more than {TEXTS} parts are text")
            else:
                files += 1
                if files > most:
                    what = f"at most {most} images are accepted in one request"
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
