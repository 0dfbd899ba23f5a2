"""Jobs, in seconds to minutes: any painting's style, and what a network looks for."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal

from pydantic import Field
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from models.classification.explain.result import VisualizeOptions
from models.errors import ModelUnknown, ParameterInvalid
from models.parameters import Parameters, properties
from models.pipeline import Kind
from models.style.result import OptimiseOptions
from service.engine.installed import require_torch
from service.errors import (
    DeadlineExceeded,
    JobFinished,
    JobUnfinished,
    JobUnknown,
    NotReady,
    NotSupported,
    Overloaded,
    StorageFailed,
)
from service.jobs.job import Job, JobKind, State
from service.jobs.service import JobService
from service.tasks.task import AnswerModel
from service.web.images import only, read_images
from service.web.openapi import FORMATS, IMAGE, images_body
from service.web.request import Request
from service.web.responses import image_response, json_response
from service.web.route import Routes

ROUTES = Routes()
ERRORS = (JobUnknown, StorageFailed)
IMAGE_ERRORS = (*ERRORS, JobUnfinished, JobFinished, Overloaded)
LAST = "last-event-id"
LOCATION = {"Location": ("the job", "string", "/v1/jobs/0f8fad5bd9cb469fa165708674f0bd3e")}


class EventsHeaders(Parameters):
    seen: int = Field(
        -1,
        alias=LAST,
        ge=-1,
        le=2**62,
        description="the last event that was seen; later ones follow",
    )


SEEN = properties(EventsHeaders)[LAST]


class LossesAnswer(AnswerModel):
    """The costs of an image before the last step, without their weights."""

    content: float | None
    style: float | None
    variation: float | None
    brightness: float | None = None


class JobAnswer(AnswerModel):
    """The state of a job."""

    id: str
    kind: JobKind = Field(
        description="what it makes: an image in a style, or one of what a network looks for"
    )
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float = Field(description="share of the steps that is done, 0 to 1")
    step: int
    steps: int
    eta_seconds: float | None = Field(description="time it should take yet, while it runs")
    losses: LossesAnswer | None = Field(description="of a style job")
    activation: float | None = Field(
        None,
        exclude_if=lambda activation: activation is None,
        description="of a visualisation: what the channel or the label answered before the last step",
    )
    reason: Literal["restarted", "timeout", "storage", "out_of_memory", "crashed", "version"] | None = Field(
        description="why it failed; `restarted`, `version`: what ran it has ended, or is of another version;"
        " submit it again"
    )
    preview: str | None = Field(description="where its latest image is")
    result: str | None = Field(description="where its image is")
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="when job and image are deleted")


QUEUED = {
    "id": "0f8fad5bd9cb469fa165708674f0bd3e",
    "kind": "stylize",
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
    "losses": {"content": 0.3114, "style": 0.0921, "variation": 0.0873, "brightness": 0.0312},
    "preview": "/v1/jobs/0f8fad5bd9cb469fa165708674f0bd3e/preview",
    "started_at": "2026-11-23T08:00:00.412Z",
}


def _jobs(request: Request) -> JobService:
    if request.service.jobs is None:
        raise JobUnknown("there is no job of that id: none can be submitted here")
    return request.service.jobs


async def _job(request: Request) -> Job:
    """The job that the path names; where keys are needed, only to the key that submitted it."""
    owner = client_of(request) if request.service.auth.required else None
    return await _jobs(request).job(request.path_params["id"], owner)


@ROUTES.add(
    "POST",
    "/v1/stylize/jobs",
    task="stylize_jobs",
    status=202,
    answer=JobAnswer,
    example=QUEUED,
    errors=(*IMAGE, StorageFailed, NotSupported),
    params=OptimiseOptions,
    body=images_body(OptimiseOptions, "content", "style"),
    gives=LOCATION,
    tag="jobs",
)
async def submit(request: Request) -> Response:
    """Begins to optimise the image `content` towards the manner of the image `style`; `Location` is the job.

    The job goes on if the client leaves. It is deterministic: the same request gives the same image.
    """
    jobs = request.service.jobs
    if jobs is None or not jobs.stylizes:
        require_torch("a style job")
        raise ModelUnknown("style jobs need the network of efficientnet-lite0, which is not served here")
    options, client = request.parameters(OptimiseOptions), client_of(request)
    await jobs.admit(options, client)
    form = await read_images(request, ("content", "style"))
    if form.parameters:
        options = request.parameters(OptimiseOptions, form.parameters)
    job = await jobs.submit(only(form.images), options, client=client, deadline=request.context.deadline)
    return _accepted(job)


def _accepted(job: Job) -> Response:
    answer = json_response(_answer(job), 202)
    answer.headers["Location"] = f"/v1/jobs/{job.id}"
    return answer


@ROUTES.add(
    "POST",
    "/v1/models/{name}/visualize/jobs",
    task="visualize_jobs",
    status=202,
    answer=JobAnswer,
    example=QUEUED | {"kind": "visualize", "steps": 128},
    errors=(
        ModelUnknown,
        ParameterInvalid,
        Overloaded,
        NotReady,
        StorageFailed,
        NotSupported,
        DeadlineExceeded,
    ),
    params=VisualizeOptions,
    models={"name": Kind.CLASSIFY},
    gives=LOCATION,
    tag="jobs",
)
async def visualize(request: Request) -> Response:
    """Begins to make an image to which a channel of a layer, or a label, answers most strongly.

    The same seed gives the same image on one machine. The job goes on if the client leaves.
    """
    jobs, name = request.service.jobs, request.path_params["name"]
    options, client = request.parameters(VisualizeOptions), client_of(request)
    if jobs is None:
        request.service.engine.find(Kind.CLASSIFY, name)
        require_torch("a visualisation")
        raise ParameterInvalid("model", f"the model {name!r} is an exported graph, without layers")
    job = await jobs.visualize(name, options, client=client, deadline=request.context.deadline)
    return _accepted(job)


@ROUTES.add("GET", "/v1/jobs/{id}", tag="jobs", answer=JobAnswer, example=RUNNING, errors=ERRORS)
async def job(request: Request) -> Response:
    """How far a job is."""
    return json_response(_answer(await _job(request)))


@ROUTES.add(
    "DELETE",
    "/v1/jobs/{id}",
    tag="jobs",
    answer=JobAnswer,
    example=RUNNING,
    errors=(*ERRORS, JobFinished),
)
async def cancel(request: Request) -> Response:
    """Cancels a job that waits or runs; its work has stopped when this answers."""
    found = await _job(request)
    return json_response(_answer(await _jobs(request).cancel(found.id)))


@ROUTES.add("GET", "/v1/jobs/{id}/result", tag="jobs", media=FORMATS, errors=IMAGE_ERRORS)
async def result(request: Request) -> Response:
    """The image: JPEG, or what `Accept` asks for (PNG, WebP)."""
    kind = request.wanted_image(default="jpeg") or "jpeg"
    return image_response(await _jobs(request).result(await _job(request), kind), kind)


@ROUTES.add("GET", "/v1/jobs/{id}/preview", tag="jobs", media=FORMATS, errors=IMAGE_ERRORS)
async def preview(request: Request) -> Response:
    """The image so far, small as long as the work is coarse: JPEG, or what `Accept` asks for."""
    kind = request.wanted_image(default="jpeg") or "jpeg"
    image = await _jobs(request).preview(await _job(request), kind)
    return image_response(image, kind, **{"Cache-Control": "no-store"})


@ROUTES.add(
    "GET",
    "/v1/jobs/{id}/events",
    tag="jobs",
    media=["text/event-stream"],
    errors=(*ERRORS, ParameterInvalid, Overloaded),
    takes={LAST: (SEEN["description"], SEEN, 12)},
)
async def events(request: Request) -> Response:
    """A job's changes as server-sent events, each with the job as its data; the last names its end.

    Events are called by the job's state. After the end the stream ends; a reconnecting client gets 204, at
    which an EventSource stops. An event `interrupted` tells that the stream ends before the job: the server
    stops, or does not know the job any more. Changes that come faster than four a second are sent together.
    """
    after = EventsHeaders.of({LAST: request.headers[LAST]} if LAST in request.headers else {}).seen
    found = await _job(request)
    if found.final and found.revision <= after:
        return Response(status_code=204)
    changes = _jobs(request).watch(found, after, client_of(request))
    await anext(changes)  # or there are too many already
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx hands events on as they come
    return StreamingResponse(_events(changes), headers=headers, media_type="text/event-stream")


async def _events(changes: AsyncIterator[Job | None]) -> AsyncIterator[bytes]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    yield b"retry: 2000\n\n"
    found = None
    async for found in changes:
        if found is None:
            yield b": nothing new\n\n"
        else:
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                found.revision,
                found.state.encode(),
                to_json(_answer(found)),
            )
    if found is None or not found.final:
        yield b"event: interrupted\ndata: {}\n\n"


def _answer(found: Job) -> JobAnswer:
    here = f"/v1/jobs/{found.id}"
    done = found.state is State.SUCCEEDED
    return JobAnswer(
        id=found.id,
        kind=found.kind,
        state=found.state.value,
        progress=found.step / found.steps,
        step=found.step,
        steps=found.steps,
        eta_seconds=found.eta,
        losses=found.losses if found.kind is JobKind.STYLIZE else None,
        activation=(found.losses or {}).get("activation"),
        reason=found.reason,
        preview=f"{here}/preview" if found.preview or done else None,
        result=f"{here}/result" if done else None,
        created_at=found.created,
        started_at=found.started,
        finished_at=found.finished,
        expires_at=found.expires,
    )


def client_of(request: Request) -> str:
    """Whose share a request counts to: its key's, or where none is needed its address's.

    An IPv6 address counts as its /64, which is what one customer gets (RFC 6177).
    """
    if request.service.auth.required:
        digest = request.service.auth.check(*request.credentials)
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
