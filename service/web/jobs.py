"""`/v1/stylize/jobs` and `/v1/jobs`: any painting's style, in seconds to minutes."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from models.errors import ModelUnknown, ParameterInvalid
from service.errors import JobUnknown
from service.jobs import Job, JobDesk
from service.web.answers import json_answer, picture_answer, wanted_picture
from service.web.call import begin
from service.web.house import Home, House
from service.web.intake import images_body
from service.web.schemas import JobOut, LossesOut

router = APIRouter(prefix="/v1", tags=["jobs"])
PICTURE: dict[int | str, dict[str, object]] = {200: {"content": {"image/jpeg": {}}}}
EVENTS: dict[int | str, dict[str, object]] = {200: {"content": {"text/event-stream": {}}}}
Id = Annotated[str, Path(description="a job's id")]
Weight = Annotated[float, Query(ge=0, le=1e6, description="weight of this cost")]


def _desk(house: Home) -> JobDesk:
    if house.jobs is None:
        raise JobUnknown("there is no job of that id: none can be submitted here")
    return house.jobs


def _owner(request: Request, house: Home) -> str | None:
    return client_of(request, house) if house.access.required else None


Desk = Annotated[JobDesk, Depends(_desk)]
Owner = Annotated[str | None, Depends(_owner)]
"""Whose jobs a request may see: its key's where keys are needed, else all, as an id cannot be guessed."""


@router.post(
    "/stylize/jobs", status_code=202, response_model=JobOut, openapi_extra=images_body("content", "style")
)
async def submit(
    request: Request,
    house: Home,
    size: Annotated[int, Query(ge=64, le=1024, description="longest side of the result, pixels")] = 256,
    steps: Annotated[int, Query(ge=1, le=1000, description="steps of the optimiser")] = 150,
    style_size: Annotated[
        int | None,
        Query(
            ge=64,
            le=1024,
            description="longest side at which the painting is looked at: larger, larger strokes; "
            "half as much again as `size` if left out",
        ),
    ] = None,
    content_weight: Weight = 1.0,
    style_weight: Weight = 5.0,
    variation_weight: Weight = 5.0,
    levels: Annotated[
        int, Query(ge=1, le=4, description="sizes, each twice the one before, from coarse to fine")
    ] = 2,
    preview_every: Annotated[
        int, Query(ge=0, le=1000, description="steps between two previews; 0: none")
    ] = 10,
) -> Response:
    """Begins to paint the image `content` in the manner of the image `style`; `Location` is the job.

    The job goes on if the client leaves. There is no chance in it: the same request gives the same picture.
    """
    begin(request)
    if house.jobs is None:
        raise ModelUnknown("style jobs need the network of efficientnet-lite0, which is not served here")
    options = {
        "size": size,
        "steps": steps,
        "style_size": style_size,
        "content_weight": content_weight,
        "style_weight": style_weight,
        "variation_weight": variation_weight,
        "levels": levels,
        "preview_every": preview_every,
    }
    client = client_of(request, house)
    deadline = house.deadline(request)
    await house.jobs.admit(options, client)
    images = await house.images(request, "content", "style")
    for field, found in images.items():
        if len(found) > 1:
            raise ParameterInvalid(field, f"{len(found)} images named {field!r}; send one")
    job = await house.jobs.submit(  # `pop`: no reference to the encoded images is left here
        images["content"].pop(), images["style"].pop(), options, client=client, deadline=deadline
    )
    answer = json_answer(_out(job), 202)
    answer.headers["Location"] = f"/v1/jobs/{job.id}"
    return answer


@router.get("/jobs/{id}", response_model=JobOut)
async def job(id: Id, desk: Desk, owner: Owner) -> Response:  # noqa: A002 (the path's name for it)
    """How far a job is."""
    return json_answer(_out(await desk.job(id, owner)))


@router.delete("/jobs/{id}", response_model=JobOut)
async def cancel(id: Id, desk: Desk, owner: Owner) -> Response:  # noqa: A002
    """Cancels a job that waits or runs; its work has stopped when this answers."""
    return json_answer(_out(await desk.cancel(id, owner)))


@router.get("/jobs/{id}/result", response_class=Response, responses=PICTURE)
async def result(request: Request, id: Id, desk: Desk, owner: Owner) -> Response:  # noqa: A002
    """The picture: JPEG, or what `Accept` asks for (PNG, WebP)."""
    kind = wanted_picture(request, by_default="jpeg") or "jpeg"
    return picture_answer(await desk.result(id, kind, owner), kind)


@router.get("/jobs/{id}/preview", response_class=Response, responses=PICTURE)
async def preview(request: Request, id: Id, desk: Desk, owner: Owner) -> Response:  # noqa: A002
    """The picture as it is, small as long as the work is coarse: JPEG, or what `Accept` asks for."""
    kind = wanted_picture(request, by_default="jpeg") or "jpeg"
    answer = picture_answer(await desk.preview(id, kind, owner), kind)
    answer.headers["Cache-Control"] = "no-store"
    return answer


@router.get("/jobs/{id}/events", response_class=Response, responses=EVENTS)
async def events(
    request: Request,
    house: Home,
    id: Id,  # noqa: A002
    desk: Desk,
    owner: Owner,
    last_event_id: Annotated[
        int, Header(ge=-1, le=2**62, description="the last event that was seen; later ones follow")
    ] = -1,
) -> Response:
    """A job's changes as server-sent events, each with the job as its data; the last names its end.

    Events are called by the job's state. After the end the stream ends; who asks again gets 204, at which an
    EventSource stops asking. Changes that come faster than four a second are told together.
    """
    found = await desk.job(id, owner)
    if found.final and found.revision <= last_event_id:
        return Response(status_code=204)
    changes = desk.watch(found, last_event_id, client_of(request, house))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx hands events on as they come
    return StreamingResponse(_events(changes), headers=headers, media_type="text/event-stream")


async def _events(changes: AsyncIterator[Job | None]) -> AsyncIterator[bytes]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    yield b"retry: 2000\n\n"
    async for found in changes:
        if found is None:
            yield b": nothing new\n\n"
        else:
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                found.revision,
                found.state.encode(),
                to_json(_out(found)),
            )


def _out(found: Job) -> JobOut:
    here = f"/v1/jobs/{found.id}"
    content, style, variation = found.losses or (None, None, None)
    return JobOut(
        id=found.id,
        state=found.state.value,
        progress=found.step / found.steps,
        step=found.step,
        steps=found.steps,
        eta_seconds=found.eta,
        losses=LossesOut(content=content, style=style, variation=variation) if found.losses else None,
        reason=found.reason.value if found.reason else None,
        preview=f"{here}/preview" if found.preview or found.state == "succeeded" else None,
        result=f"{here}/result" if found.state == "succeeded" else None,
        created_at=_when(found.created),
        started_at=_when(found.started),
        finished_at=_when(found.finished),
        expires_at=_when(found.expires),
    )


def _when(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def client_of(request: Request, house: House) -> str:
    """Whose share a request counts to: its key's, or where none is needed its address's.

    An IPv6 address counts as its /64, which is what one customer gets (RFC 6177).
    """
    if house.access.required:
        headers = request.headers
        digest = house.access.check(headers.get("authorization"), headers.get("x-api-key"))
        return f"key {digest.hex() if digest else ''}"
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a Unix domain socket
        return f"address {host}"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"address {address.ipv4_mapped}"
        return f"address {ipaddress.IPv6Network((int(address), 64), strict=False)}"
    return f"address {address}"
