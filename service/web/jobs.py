"""`/v1/stylize/jobs` and `/v1/jobs`: any painting's style, in seconds to minutes."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from pydantic_core import to_json

from models.errors import ModelUnknown, ParameterInvalid
from models.style.optimise import OptimiseOptions
from service.app import Service
from service.errors import JobFinished, JobUnfinished, JobUnknown, Overloaded, StorageFailed
from service.jobs.service import Job, JobService
from service.tasks.task import AnswerModel
from service.web.context import State, begin
from service.web.openapi import IMAGE, LOCATION, documented
from service.web.requests import images_body, read_images, read_parameters
from service.web.responses import FORMATS, image_response, json_response, wanted_image

router = APIRouter(prefix="/v1", tags=["jobs"])
SUBMIT = "/v1/stylize/jobs"
TASK = "stylize_jobs"
"""Label of metrics."""
MEDIA = [kind for kind in FORMATS if "*" not in kind]
ERRORS = (JobUnknown, StorageFailed)


class LossesAnswer(AnswerModel):
    """The three costs of an image before the last step, without their weights."""

    content: float | None
    style: float | None
    variation: float | None


class JobAnswer(AnswerModel):
    """The state of a job."""

    id: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float = Field(description="share of the steps that is done, 0 to 1")
    step: int
    steps: int
    eta_seconds: float | None = Field(description="time it should take yet, while it runs")
    losses: LossesAnswer | None
    reason: Literal["restarted", "timeout", "storage", "crashed"] | None = Field(
        description="why it failed; `restarted`: the server ended before it, submit it again"
    )
    preview: str | None = Field(description="where its latest image is")
    result: str | None = Field(description="where its image is")
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="when job and image are deleted")


QUEUED = {
    "id": "0f8fad5bd9cb469fa165708674f0bd3e",
    "state": "queued",
    "progress": 0.0,
    "step": 0,
    "steps": 150,
    "eta_seconds": None,
    "losses": None,
    "reason": None,
    "preview": None,
    "result": None,
    "created_at": "2026-11-23T08:00:00.105Z",
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
}
RUNNING = QUEUED | {
    "state": "running",
    "progress": 0.4,
    "step": 60,
    "eta_seconds": 11.4,
    "losses": {"content": 0.3114, "style": 0.0921, "variation": 0.0873},
    "preview": "/v1/jobs/0f8fad5bd9cb469fa165708674f0bd3e/preview",
    "started_at": "2026-11-23T08:00:00.412Z",
}


def _jobs(service: State) -> JobService:
    if service.jobs is None:
        raise JobUnknown("there is no job of that id: none can be submitted here")
    return service.jobs


def _owner(request: Request, service: State) -> str | None:
    return client_of(request, service) if service.auth.required else None


Id = Annotated[str, Path(description="a job's id")]
Jobs = Annotated[JobService, Depends(_jobs)]
Owner = Annotated[str | None, Depends(_owner)]
"""Whose jobs a request may see: its key's where keys are needed, else all, as an id cannot be guessed."""


@router.post(
    "/stylize/jobs",
    status_code=202,
    response_model=JobAnswer,
    **documented(
        *IMAGE,
        StorageFailed,
        example=QUEUED,
        status=202,
        computes=True,
        headers=LOCATION,
        params=OptimiseOptions,
        body=images_body("content", "style"),
    ),
)
async def submit(request: Request, service: State) -> Response:
    """Begins to optimise the image `content` towards the manner of the image `style`; `Location` is the job.

    The job goes on if the client leaves. It is deterministic: the same request gives the same image.
    """
    context = begin(request, TASK)
    if service.jobs is None:
        raise ModelUnknown("style jobs need the network of efficientnet-lite0, which is not served here")
    options = read_parameters(request, OptimiseOptions)
    client = client_of(request, service)
    await service.jobs.admit(options, client)
    images = await read_images(request, ("content", "style"))
    for field, found in images.items():
        if len(found) > 1:
            raise ParameterInvalid(field, f"{len(found)} images named {field!r}; send one")
    job = await service.jobs.submit(  # `pop`: no reference to the encoded images is left here
        images["content"].pop(), images["style"].pop(), options, client=client, deadline=context.deadline
    )
    answer = json_response(_answer(job), 202)
    answer.headers["Location"] = f"/v1/jobs/{job.id}"
    return answer


@router.get("/jobs/{id}", response_model=JobAnswer, **documented(*ERRORS, example=RUNNING))
async def job(id: Id, jobs: Jobs, owner: Owner) -> Response:  # noqa: A002 (the path's name for it)
    """How far a job is."""
    return json_response(_answer(await jobs.job(id, owner)))


@router.delete("/jobs/{id}", response_model=JobAnswer, **documented(*ERRORS, JobFinished, example=RUNNING))
async def cancel(id: Id, jobs: Jobs, owner: Owner) -> Response:  # noqa: A002
    """Cancels a job that waits or runs; its work has stopped when this answers."""
    return json_response(_answer(await jobs.cancel(id, owner)))


@router.get(
    "/jobs/{id}/result",
    response_class=Response,
    **documented(*ERRORS, JobUnfinished, JobFinished, Overloaded, media=MEDIA),
)
async def result(request: Request, id: Id, jobs: Jobs, owner: Owner) -> Response:  # noqa: A002
    """The image: JPEG, or what `Accept` asks for (PNG, WebP)."""
    kind = wanted_image(request, default="jpeg") or "jpeg"
    return image_response(await jobs.result(id, kind, owner), kind)


@router.get(
    "/jobs/{id}/preview",
    response_class=Response,
    **documented(*ERRORS, JobUnfinished, JobFinished, Overloaded, media=MEDIA),
)
async def preview(request: Request, id: Id, jobs: Jobs, owner: Owner) -> Response:  # noqa: A002
    """The image so far, small as long as the work is coarse: JPEG, or what `Accept` asks for."""
    kind = wanted_image(request, default="jpeg") or "jpeg"
    answer = image_response(await jobs.preview(id, kind, owner), kind)
    answer.headers["Cache-Control"] = "no-store"
    return answer


@router.get(
    "/jobs/{id}/events",
    response_class=Response,
    **documented(*ERRORS, ParameterInvalid, Overloaded, media=["text/event-stream"]),
)
async def events(
    request: Request,
    service: State,
    id: Id,  # noqa: A002
    jobs: Jobs,
    owner: Owner,
    last_event_id: Annotated[
        int, Header(ge=-1, le=2**62, description="the last event that was seen; later ones follow")
    ] = -1,
) -> Response:
    """A job's changes as server-sent events, each with the job as its data; the last names its end.

    Events are called by the job's state. After the end the stream ends; a reconnecting client gets 204, at
    which an EventSource stops. Changes that come faster than four a second are sent together.
    """
    found = await jobs.job(id, owner)
    if found.final and found.revision <= last_event_id:
        return Response(status_code=204)
    changes = jobs.watch(found, last_event_id, client_of(request, service))
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
                to_json(_answer(found)),
            )


def _answer(found: Job) -> JobAnswer:
    here = f"/v1/jobs/{found.id}"
    content, style, variation = found.losses or (None, None, None)
    return JobAnswer(
        id=found.id,
        state=found.state.value,
        progress=found.step / found.steps,
        step=found.step,
        steps=found.steps,
        eta_seconds=found.eta,
        losses=LossesAnswer(content=content, style=style, variation=variation) if found.losses else None,
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


def client_of(request: Request, service: Service) -> str:
    """Whose share a request counts to: its key's, or where none is needed its address's.

    An IPv6 address counts as its /64, which is what one customer gets (RFC 6177).
    """
    if service.auth.required:
        headers = request.headers
        digest = service.auth.check(headers.get("authorization"), headers.get("x-api-key"))
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
