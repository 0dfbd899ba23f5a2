"""What a body holds: images, raw, as multipart fields, or as base64 in JSON; and parameters beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from models.errors import ImageInvalid, MediaTypeUnsupported, ParameterInvalid, echoed
from models.headers.accepted import MEDIA_TYPES
from service.encoded import from_base64
from service.web.json_text import Structure, parse_json
from service.web.multipart import Malformed, boundary_of, split
from service.web.request import Request

RAW = (*MEDIA_TYPES, "application/octet-stream")
"""What a raw image may be declared as in the API's document; any other type is read by its bytes as well."""
JSON = "application/json"
FORM = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
TEXTS: Final = 64
"""Most parts of a form that are no files."""
TEXT_BYTES: Final = 64 * 1024
"""Of one of them."""
NAMES: Final = 8
"""Names that an error says came."""

STRUCTURE = Structure(values=4096, lists=1024, objects=256, names=4096)
"""Of a JSON body of images: a few names and texts."""


@dataclass(slots=True)
class Form:
    """What a body holds.

    Attributes:
        images: by field; a field of a form may come again.
        parameters: the other names, with their values.
    """

    images: dict[str, list[bytes]] = field(default_factory=dict)
    parameters: list[tuple[str, Any]] = field(default_factory=list)


def kind_of(content_type: str) -> str:
    """The media type of a Content-Type, without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON's."""
    return kind in (JSON, "text/json") or kind.endswith("+json")


def form_of(body: bytes, content_type: str, fields: Sequence[str], most: int) -> Form:
    """What is in a form, or in JSON with one base64 text, or a list of them, for each field.

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
    form = _multipart(body, content_type, fields, most) if is_form else _json(body, fields, most)
    if len(fields) == 1 and len(form.images) == 1 and is_form:
        form.images = {fields[0]: next(iter(form.images.values()))}  # the only file, by whatever name
    for name in fields:
        if not form.images.get(name):
            came = [*form.images, *(key for key, _ in form.parameters)][:NAMES]
            there = f"; there are {', '.join(map(echoed, came))}" if came else ""
            raise ParameterInvalid(name, f"the body has no {name!r}: an image is needed there{there}")
    return _known(form, fields)


def parts_of(body: bytes, content_type: str, fields: Sequence[str]) -> Form:
    """What is in a form whose fields are images and JSON texts, each of them at most once.

    Raises:
        ParameterInvalid: it is no form, has other files, or more of something than it may.
    """
    return _known(_multipart(body, content_type, fields, len(fields)), fields)


async def read_images(request: Request, fields: Sequence[str]) -> Form:
    """What the request's body holds, within the settings' limits. A raw body is the only field's image.

    Raises:
        MediaTypeUnsupported: a body of several images that is neither a form nor JSON, or a form of a type
            that holds no image.
        Exception: as `Request.content` and `form_of`.
    """
    settings = request.service.settings
    content_type = request.headers.get("content-type", RAW[-1])
    kind = kind_of(content_type)
    is_raw = not (kind == FORM or is_json(kind))
    if is_raw and len(fields) > 1:
        raise MediaTypeUnsupported(f"the content type {echoed(kind)} is not accepted; send {FORM} or {JSON}")
    most = settings.max_image_bytes
    if is_json(kind):
        images = settings.max_images if len(fields) == 1 else len(fields)
        most = min(most * images * 4 // 3 + 4096, settings.max_body_bytes)  # base64 is longer by a third
    elif kind == FORM:
        most = settings.max_body_bytes
    body = await request.content(most)
    if not is_raw:
        return await request.parse(body, partial(form_of, body, content_type, fields, settings.max_images))
    if kind == URLENCODED and body[:32].isascii() and body[:32].decode().isprintable():
        # curl calls any body so; no image begins with so much text
        raise MediaTypeUnsupported(
            f"{URLENCODED} holds no image: send an image's bytes as they are, or {FORM} with the file "
            f"{fields[0]!r}"
        )
    return Form({fields[0]: [body]})


def only(images: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    """The one image of each field, without a reference to it in `images`.

    Raises:
        ParameterInvalid: a field has several.
    """
    for name, found in images.items():
        if len(found) > 1:
            raise ParameterInvalid(name, f"{len(found)} images named {name!r}; send one")
    return {name: found.pop() for name, found in images.items()}


def _known(form: Form, fields: Sequence[str]) -> Form:
    for name in form.images:
        if name not in fields:
            raise ParameterInvalid(name, f"there is no field {echoed(name)}; send {', '.join(fields)}")
    return form


def _multipart(body: bytes, content_type: str, fields: Sequence[str], most: int) -> Form:
    form, files = Form(), 0
    try:
        for part in split(body, boundary_of(content_type), most + TEXTS + 1):
            length = part.end - part.start
            if part.file or part.name in fields:
                files += 1
                if files > most:
                    raise ParameterInvalid(fields[0], f"at most {most} images are accepted in one request")
                form.images.setdefault(part.name, []).append(body[part.start : part.end])
            elif len(form.parameters) == TEXTS:
                raise ParameterInvalid(part.name, f"more than {TEXTS} parts of the form are text")
            elif length > TEXT_BYTES:
                what = f"the text {echoed(part.name)} has {length} bytes; at most {TEXT_BYTES} are accepted"
                raise ParameterInvalid(part.name, what)
            else:
                text = body[part.start : part.end].decode(errors="replace")
                form.parameters.append((part.name, text))
    except Malformed as error:
        raise ParameterInvalid(fields[0], f"malformed multipart body: {error}") from None
    return form


def _json(body: bytes, fields: Sequence[str], most: int) -> Form:
    try:
        document = parse_json(body, STRUCTURE)
    except ValueError as exc:
        raise ParameterInvalid(fields[0], f"the body is not JSON: {exc}") from None
    if not isinstance(document, dict):
        raise ParameterInvalid(fields[0], "the body must be a JSON object")
    form = Form()
    for name, value in document.items():
        if value is None:
            continue
        if name not in fields:
            form.parameters.append((name, value))
            continue
        texts = value if isinstance(value, list) and len(fields) == 1 else [value]
        if len(texts) > most:
            raise ParameterInvalid(name, f"at most {most} images are accepted in one request")
        form.images[name] = list(_decoded(name, texts))
    return form


def _decoded(name: str, texts: Sequence[Any]) -> Iterable[bytes]:
    for text in texts:
        if not isinstance(text, str):
            raise ParameterInvalid(name, f"{name!r} must be a string of base64, or a list of them")
        try:
            yield from_base64(text)
        except ValueError:
            raise ImageInvalid(f"{name!r} is not valid base64") from None
