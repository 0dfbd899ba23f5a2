"""How images come in: the raw body, multipart fields, or base64 in JSON; all bounded before it is read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Callable, Sequence

from fastapi import Request
from pydantic_core import from_json
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from models.errors import ImageInvalid, ImageTooLarge, MediaTypeUnsupported, ParameterInvalid
from service.web.call import ClientGone

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


class _Parser(MultiPartParser):
    """Keeps parts in memory: the body is bounded and in memory already."""

    spool_max_size = 1 << 40


async def read_images(
    request: Request,
    progress: Callable[[], None],
    fields: Sequence[str],
    *,
    max_image: int,
    max_body: int,
    max_images: int,
) -> dict[str, list[bytes]]:
    """The images of a request, by field.

    A raw body is the only field's image. A multipart body may repeat a field; JSON holds one base64 text
    for each.

    Args:
        request: the request; its body is read here.
        progress: called when a part of it has come.
        fields: the names that images may have; each must be there.
        max_image: bytes of a raw image.
        max_body: bytes of a body with several images.
        max_images: most images.

    Raises:
        MediaTypeUnsupported: the declared type is none that holds images.
        ImageTooLarge: the body is over its limit, as declared or as counted.
        ImageInvalid: base64 that is none.
        ParameterInvalid: a field is missing, or there are too many images.
        ClientGone: the client hung up half way.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise MediaTypeUnsupported("a compressed body is not accepted; images are compressed already")
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _multipart(request, fields, await read_body(request, progress, max_body), max_images)
    elif kind == "application/json":
        most = max_image * len(fields) * 4 // 3 + 4096  # base64 is longer by a third
        found = _json(await read_body(request, progress, most), fields)
    elif kind in RAW and len(fields) == 1:
        found = {fields[0]: [await read_body(request, progress, max_image)]}
    else:
        accepted = ACCEPTED if len(fields) == 1 else "multipart/form-data or application/json"
        raise MediaTypeUnsupported(f"the content type {kind!r} is not accepted; send {accepted}")
    for field in fields:
        if not found.get(field):
            raise ParameterInvalid(field, f"the body has no {field!r}: an image is needed there")
    return found


async def read_json(request: Request, progress: Callable[[], None], most: int) -> bytes:
    """A JSON body of at most so many bytes.

    Raises:
        MediaTypeUnsupported: it is not declared as JSON.
        ImageTooLarge: it is longer.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise MediaTypeUnsupported(f"the content type {kind!r} is not accepted; send application/json")
    return await read_body(request, progress, most)


async def read_body(request: Request, progress: Callable[[], None], most: int) -> bytes:
    """The body as it came, of at most so many bytes; `progress` is called when a part of it has come.

    Raises:
        ImageTooLarge: it is longer, as declared or as counted.
        ClientGone: the client hung up half way.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise ImageTooLarge(f"the body has {declared} bytes; at most {most} are accepted")
    chunks, length = [], 0
    try:
        async for chunk in request.stream():
            if not chunk:  # the last one, else the whole body were copied for its sake
                continue
            progress()
            length += len(chunk)
            if length > most:
                raise ImageTooLarge(f"the body has more than {most} bytes, which is the most accepted")
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientGone from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _multipart(
    request: Request, fields: Sequence[str], body: bytes, max_images: int
) -> dict[str, list[bytes]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        headers = Headers(raw=request.headers.raw)
        form = await _Parser(headers, stream(), max_files=max_images, max_fields=64).parse()
    except (MultiPartException, KeyError, ValueError) as exc:
        many = "Too many files" in str(exc)
        detail = (
            f"at most {max_images} images are accepted in one request" if many else "malformed multipart body"
        )
        raise ParameterInvalid(fields[0], detail) from exc
    found: dict[str, list[bytes]] = {}
    for name, value in form.multi_items():
        if name in fields:
            if not isinstance(value, UploadFile):
                raise ParameterInvalid(name, f"the part {name!r} is text; send it as a file")
            found.setdefault(name, []).append(value.file.read())  # in memory: see _Parser
    await form.close()
    return found


def _json(body: bytes, fields: Sequence[str]) -> dict[str, list[bytes]]:
    try:
        document = from_json(body)
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
