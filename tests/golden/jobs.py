"""The life of a style job, and of one that is cancelled."""

from __future__ import annotations

import json
import re
import time

import httpx

from tests.golden.answers import Json, described, plain
from tests.golden.http import BOUNDARY, Part, multipart
from tests.golden.images import image

SMALL = {
    "size": 64,
    "steps": 3,
    "style_size": 96,
    "content_weight": 2,
    "style_weight": 4,
    "variation_weight": 3,
    "levels": 1,
    "seed": 5,
    "preview_every": 1,
}
LONG = {"size": 256, "steps": 1000}
VOLATILE = ("id", "created_at", "started_at", "finished_at", "expires_at", "eta_seconds")
SECONDS = 120


def lives(client: httpx.Client) -> dict[str, Json]:
    """What a job's routes answer, with what differs from run to run left out."""
    first = _submit(client, SMALL)
    path = first.headers["location"]
    found: dict[str, Json] = {"submitted": _stored(first)}
    events = []
    with client.stream("GET", f"{path}/events", timeout=SECONDS) as stream:
        found["events"] = {"status": stream.status_code, "content-type": stream.headers["content-type"]}
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    found["last event"] = _without(events[-1])
    found["finished"] = _stored(client.get(path))
    for what in ("result", "preview"):
        for kind in ("jpeg", "png", "webp"):
            answer = client.get(f"{path}/{what}", headers={"accept": f"image/{kind}"})
            found[f"{what} {kind}"] = _stored(answer)
    found["events of one that is over"] = _stored(
        client.get(f"{path}/events", headers={"last-event-id": str(2**62)})
    )
    found["cancelled after its end"] = _stored(client.delete(path))
    long = _submit(client, LONG).headers["location"]
    _until(client, long, "running")
    found["result of an unfinished one"] = _stored(client.get(f"{long}/result"))
    found["events from no number"] = _stored(client.get(f"{long}/events", headers={"last-event-id": "x"}))
    found["cancelled"] = _state(client.delete(long))
    found["state after that"] = _state(client.get(long))
    found["result after that"] = _stored(client.get(f"{long}/result"))
    return found


def _submit(client: httpx.Client, options: dict[str, int]) -> httpx.Response:
    parts = [
        Part("content", image("shapes-png"), "content.png", "image/png"),
        Part("style", image("gradient-jpeg"), "style.jpg", "image/jpeg"),
    ]
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = client.post("/v1/stylize/jobs", params=options, headers=headers, content=multipart(parts))
    assert answer.status_code == 202, answer.text
    return answer


def _until(client: httpx.Client, path: str, state: str) -> None:
    end = time.monotonic() + SECONDS
    while client.get(path).json()["state"] != state:
        assert time.monotonic() < end, f"the job was not {state} in {SECONDS} s"
        time.sleep(0.2)


def _state(answer: httpx.Response) -> Json:
    return {"status": answer.status_code, "state": answer.json()["state"], "reason": answer.json()["reason"]}


def _stored(answer: httpx.Response) -> Json:
    kind = answer.headers.get("content-type", "")
    found: dict[str, Json] = {"status": answer.status_code, "content-type": kind}
    if "location" in answer.headers:
        found["location"] = _without({"path": answer.headers["location"]})["path"]
    if kind.startswith("image/"):
        found["picture"] = described(answer.content)
    elif "json" in kind:
        found["json"] = _without(answer.json())
    return found


def _without(value: dict[str, Json]) -> Json:
    found = plain({key: item for key, item in value.items() if key not in VOLATILE and key != "preview"})
    return json.loads(re.sub(r"/v1/jobs/[0-9A-Za-z_-]+", "/v1/jobs/ID", json.dumps(found)))
