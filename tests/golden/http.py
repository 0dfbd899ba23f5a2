"""Requests over HTTP, and how they are sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.golden.answers import Json, described, plain, tensor
from tests.golden.images import image, present

BOUNDARY = "golden-7d1f"
HEADER = "inference-header-content-length"
KEPT = ("content-type", "content-encoding", "vary", "cache-control")
"""Headers whose values are stored; of the next only that they are there."""
PRESENT = (
    "retry-after",
    "x-batch-size",
    "server-timing",
    "x-request-id",
    "location",
    "www-authenticate",
    HEADER,
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart body; with a file name it is a file."""

    name: str
    content: bytes
    filename: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Http:
    """A request: what it sends, and the images that it needs.

    Attributes:
        name: stable; the stored answer's key.
        body: as it is sent.
        needs: names of `images`.
    """

    name: str
    method: str
    path: str
    params: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    needs: Sequence[str] = ()


def raw(
    path: str,
    name: str,
    params: Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    note: str = "",
    kind: str | None = None,
) -> Http:
    """A POST of one image as the body, of the content type that its name ends with."""
    query = [(key, str(value)) for key, value in (params or {}).items()]
    sent = {"content-type": kind or "application/octet-stream", **(headers or {})}
    text = "&".join(f"{key}={value}" for key, value in query)
    return Http(
        " ".join(filter(None, (path, name, text, note))), "POST", path, query, sent, _image(name), (name,)
    )


def form(
    path: str,
    parts: Sequence[Part | tuple[str, str]],
    params: Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    note: str,
) -> Http:
    """A multipart POST; a pair is a field's name and an image's."""
    needs = [part[1] for part in parts if isinstance(part, tuple)]
    whole = [
        part if isinstance(part, Part) else Part(part[0], _image(part[1]), f"{part[1]}.bin", "image/jpeg")
        for part in parts
    ]
    query = [(key, str(value)) for key, value in (params or {}).items()]
    sent = {"content-type": f"multipart/form-data; boundary={BOUNDARY}", **(headers or {})}
    return Http(f"{path} multipart {note}", "POST", path, query, sent, multipart(whole), needs)


def document(
    path: str,
    body: Json,
    params: Mapping[str, Any] | None = None,
    *,
    needs: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    note: str,
) -> Http:
    """A POST of JSON; of bytes as they are."""
    query = [(key, str(value)) for key, value in (params or {}).items()]
    sent = {"content-type": "application/json", **(headers or {})}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Http(f"{path} JSON {note}", "POST", path, query, sent, content, needs)


def get(
    path: str,
    params: Mapping[str, Any] | None = None,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    note: str = "",
) -> Http:
    """A request without a body."""
    query = [(key, str(value)) for key, value in (params or {}).items()]
    asked = "&".join(f"{key}={value}" for key, value in query)
    return Http(" ".join(filter(None, (method, path, asked, note))), method, path, query, headers or {})


def multipart(parts: Sequence[Part]) -> bytes:
    """A multipart/form-data body with `BOUNDARY`."""
    out = []
    for part in parts:
        disposition = f'form-data; name="{part.name}"'
        if part.filename is not None:
            disposition += f'; filename="{part.filename}"'
        head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n"
        if part.kind is not None:
            head += f"Content-Type: {part.kind}\r\n"
        out.append(head.encode() + b"\r\n" + part.content + b"\r\n")
    return b"".join(out) + f"--{BOUNDARY}--\r\n".encode()


def text(name: str) -> str:
    """An image in base64."""
    return base64.b64encode(_image(name)).decode()


def _image(name: str) -> bytes:
    return image(name) if present(name) else b""  # without it the request is not sent


def possible(case: Http) -> bool:
    """Whether every image that it needs is there."""
    return all(map(present, case.needs))


def send(client: httpx.Client, case: Http) -> Json:
    """The answer as it is stored."""
    headers = {"x-request-id": "golden", **case.headers}
    answer = client.request(
        case.method, case.path, params=list(case.params), headers=headers, content=case.body
    )
    kept = {name: answer.headers[name] for name in KEPT if name in answer.headers}
    there = [name for name in PRESENT if name in answer.headers]
    return {"status": answer.status_code, "headers": kept, "present": dict.fromkeys(there, True)} | _body(
        answer
    )


def _body(answer: httpx.Response) -> dict[str, Json]:
    kind = answer.headers.get("content-type", "")
    if kind.startswith("image/"):
        return {"picture": described(answer.content)}
    if HEADER in answer.headers:
        return {"json": _binary(answer.content, int(answer.headers[HEADER]))}
    if "json" in kind:
        return {"json": plain(answer.json())}
    return {}


def _binary(content: bytes, length: int) -> Json:
    """JSON with tensors behind it; the tensors at their places in the JSON."""
    found, position = json.loads(content[:length]), length
    outputs = []
    for output in found["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs.append(plain({"outputs": [output]})["outputs"][0])
            continue
        tail = content[position : position + size]
        outputs.append({**tensor(output["name"], output["datatype"], output["shape"], tail), "binary": True})
        position += size
    return {**found, "outputs": outputs}
