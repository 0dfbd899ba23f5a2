"""Style jobs over HTTP: real processes on tiny pictures, with a loss network of random weights."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.requests import empty_receive

from models.errors import ParameterInvalid
from models.style.result import OptimiseOptions
from service.app import Service
from service.errors import Overloaded
from service.jobs.job import Files, Job, State
from service.jobs.liveness import WorkerRegistry
from service.jobs.local import LocalJobs
from service.jobs.service import JobService
from service.jobs.store import JobStore
from service.request import RequestContext
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.web.app import Application
from service.web.jobs import client_of
from service.web.request import Request
from tests.service.jobs.small import CONTENT, STYLE, gone, random_network, until

SMALL = {"size": 64, "steps": 4, "preview_every": 1}
FILES = {"content": CONTENT, "style": STYLE}


class JobApi:
    """The HTTP API with jobs, and nothing else behind it, in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        jobs: bool = True,
        keys: tuple[str, ...] = (),
        waiting: int = 1,
        **settings: Any,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="api")
        self.thread.start()
        self.metrics = Metrics()
        self.begun = True  # whether jobs that wait are begun
        self.service = Service(Settings(api_keys=keys, **settings), [], self.metrics)
        self.engine = self.service.engine
        self.store = JobStore(folder / "state", max_waiting=waiting)
        self.backend = LocalJobs(
            self.store,
            WorkerRegistry(folder / "state" / "workers"),
            Files(random_network(folder)),
            self.metrics,
            accepting=lambda: self.begun,
        )
        self.jobs = JobService(self.backend, self.engine)
        self.service.jobs = self.jobs if jobs else None
        self.app = Application(self.service)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(280)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer: httpx.Response = self.run(self.client.request(method, path, timeout=280, **options))
        return answer

    def submit(self, **parameters: Any) -> httpx.Response:
        return self.ask("POST", "/v1/stylize/jobs", params=SMALL | parameters, files=FILES)

    def close(self) -> None:
        self.backend.stop()
        self.run(self.client.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[JobApi]:
    api = JobApi(tmp_path)
    api.backend.start()
    yield api
    api.close()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobApi]:
    """One in which no job is ever begun."""
    api = JobApi(tmp_path_factory.mktemp("quiet"))
    api.begun = False
    api.backend.start()
    yield api
    api.close()


def events_of(text: str) -> list[dict[str, str]]:
    """The events of a stream, as the standard has them read."""
    blocks = [block for block in text.split("\n\n") if "data: " in block]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    return problem


def test_a_job_from_its_submission_to_its_picture(api: JobApi) -> None:
    answer = api.submit()
    assert answer.status_code == 202
    job = answer.json()
    here = f"/v1/jobs/{job['id']}"
    assert answer.headers["location"] == here
    assert re.fullmatch("[0-9a-f]{32}", job["id"])
    assert (job["progress"], job["steps"], job["result"]) == (0, 4, None)

    stream = api.ask("GET", f"{here}/events")  # reads to its end
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = events_of(stream.text)
    ids = [int(event["id"]) for event in events]
    assert ids == sorted(set(ids))
    seen = [json.loads(event["data"]) for event in events]
    assert [event["event"] for event in events] == [state["state"] for state in seen]
    assert {state["state"] for state in seen[:-1]} <= {"queued", "running"}
    assert [state["step"] for state in seen] == sorted(state["step"] for state in seen)
    last = seen[-1]
    assert (last["state"], last["progress"], last["result"]) == ("succeeded", 1, f"{here}/result")
    assert last == api.ask("GET", here).json()
    assert last["losses"]["style"] > 0
    assert last["created_at"] <= last["started_at"] <= last["finished_at"] < last["expires_at"]

    again = api.ask("GET", f"{here}/events", headers={"last-event-id": str(ids[-1])})
    assert (again.status_code, again.content) == (204, b"")
    missed = api.ask("GET", f"{here}/events", headers={"last-event-id": str(ids[-2])})
    assert [event["event"] for event in events_of(missed.text)] == ["succeeded"]

    for kind in ("jpeg", "png", "webp"):
        for what in ("result", "preview"):
            picture = api.ask("GET", f"{here}/{what}", headers={"accept": f"image/{kind}"})
            assert picture.headers["content-type"] == f"image/{kind}"
            opened = Image.open(io.BytesIO(picture.content))
            assert (opened.format, opened.size) == (kind.upper(), (64, 44))
    refused(api.ask("DELETE", here), 409, "job_finished")
    names = {path.name for path in api.store.path(job["id"], "").iterdir()}
    assert names == {"preview.png", "result.png"}, "what was sent is not kept"
    count = api.metrics.registry.get_sample_value
    assert count("lynceus_jobs_ended_total", {"outcome": "succeeded"}) == 1
    assert count("lynceus_requests_total", {"task": "stylize_jobs", "transport": "http", "code": "ok"}) == 1


def test_a_running_job_is_cancelled_and_its_process_gone(api: JobApi) -> None:
    body = {name: base64.b64encode(data).decode() for name, data in FILES.items()}
    parameters = {"size": 64, "steps": 1000, "preview_every": 1, "levels": 1}
    job = api.ask("POST", "/v1/stylize/jobs", params=parameters, json=body).json()["id"]
    here = f"/v1/jobs/{job}"
    until(lambda: api.ask("GET", here).json()["step"] > 1)
    pid = api.backend._running[job]._process.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    group = Path(f"/proc/{pid}/autogroup")
    assert not group.exists() or group.read_text().endswith("nice 10\n")
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n", "without memory it ends, not a worker"
    running = api.ask("GET", here).json()
    assert running["state"] == "running"
    assert 0 < running["progress"] < 1
    assert running["eta_seconds"] > 0
    assert "running" in refused(api.ask("GET", f"{here}/result"), 409, "job_unfinished")["detail"]
    assert Image.open(io.BytesIO(api.ask("GET", f"{here}/preview").content)).size == (64, 44)

    waiting = api.submit()
    assert waiting.json()["state"] == "queued"
    many = api.submit()
    refused(many, 429, "overloaded")
    assert 1 <= int(many.headers["retry-after"]) <= 3600  # as long as the running job should take
    there = waiting.headers["location"]
    refused(api.ask("GET", f"{there}/preview"), 409, "job_unfinished")
    assert api.ask("DELETE", there).json()["state"] == "cancelled"
    refused(api.ask("GET", f"{there}/preview"), 409, "job_finished")

    assert api.ask("DELETE", here).json()["state"] == "cancelled"
    assert gone(pid)
    refused(api.ask("DELETE", here), 409, "job_finished")
    refused(api.ask("GET", f"{here}/result"), 409, "job_finished")
    assert api.ask("GET", f"{here}/preview").status_code == 200
    assert events_of(api.ask("GET", f"{here}/events").text)[-1]["event"] == "cancelled"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", 0), ("steps", 1001), ("size", 63), ("size", 1025), ("style_size", 1025), ("levels", 5)),
        *(("style_weight", -1), ("content_weight", "nan"), ("preview_every", -1), ("steps", "many")),
    ],
)
def test_parameters_have_ranges(quiet: JobApi, name: str, value: object) -> None:
    assert refused(quiet.submit(**{name: value}), 422, "parameter_invalid")["parameter"] == name


@pytest.mark.parametrize("name", ["content", "style"])
def test_the_picture_that_is_wrong_is_named(quiet: JobApi, name: str) -> None:
    def post(files: Any) -> httpx.Response:
        return quiet.ask("POST", "/v1/stylize/jobs", params=SMALL, files=files)

    assert refused(post(FILES | {name: CONTENT[:100]}), 400, "image_invalid")["image"] == name
    assert refused(post(FILES | {name: b"words"}), 415, "media_type")["image"] == name
    without = {key: data for key, data in FILES.items() if key != name}
    assert refused(post(without), 422, "parameter_invalid")["parameter"] == name
    twice = [*FILES.items(), (name, CONTENT)]
    assert refused(post(twice), 422, "parameter_invalid")["parameter"] == name


def test_a_job_needs_both_pictures_in_a_form_or_in_json(quiet: JobApi) -> None:
    raw = quiet.ask("POST", "/v1/stylize/jobs", content=CONTENT, headers={"content-type": "image/png"})
    refused(raw, 415, "media_type")
    assert quiet.store.counts()[State.QUEUED] == 0, "nothing that was refused is kept"


@pytest.mark.parametrize("job", ["0" * 32, "..", "%2e%2e", "x' OR 1=1 --"])
def test_an_unknown_job(quiet: JobApi, job: str) -> None:
    for path in ("", "/result", "/preview", "/events"):
        answer = quiet.ask("GET", f"/v1/jobs/{job}{path}")
        assert (answer.status_code, answer.json()["code"]) in ((404, "job_unknown"), (404, "not_found"))
    refused(quiet.ask("DELETE", f"/v1/jobs/{'0' * 32}"), 404, "job_unknown")
    bad = quiet.ask("GET", f"/v1/jobs/{'0' * 32}/events", headers={"last-event-id": "x"})
    assert refused(bad, 422, "parameter_invalid")["parameter"] == "last-event-id"


def test_who_watches_may_leave(quiet: JobApi) -> None:
    job = quiet.submit().json()["id"]
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/v1/jobs/{job}/events",
        "raw_path": b"",
        "query_string": b"",
        "headers": [],
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    sent: list[Any] = []

    async def leaving() -> None:
        watching = asyncio.Event()

        async def send(message: Any) -> None:
            sent.append(message)
            if b"event: queued" in message.get("body", b""):
                assert quiet.jobs._watchers.total() == 1
                watching.set()

        async def receive() -> Any:
            await watching.wait()
            return {"type": "http.disconnect"}

        await quiet.app(scope, receive, send)
        await asyncio.sleep(0)

    quiet.run(leaving())
    until(lambda: not quiet.jobs._watchers)
    assert quiet.ask("GET", f"/v1/jobs/{job}").json()["state"] == "queued", "the job does not care"
    assert quiet.ask("DELETE", f"/v1/jobs/{job}").json()["state"] == "cancelled"


def test_the_watchers_are_bounded(quiet: JobApi, monkeypatch: pytest.MonkeyPatch) -> None:
    job = quiet.submit().json()["id"]
    monkeypatch.setattr("service.jobs.service.WATCHERS", 0)
    refused(quiet.ask("GET", f"/v1/jobs/{job}/events"), 429, "overloaded")
    quiet.ask("DELETE", f"/v1/jobs/{job}")


def test_one_client_has_a_quarter_of_the_event_streams(
    quiet: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = quiet.submit().json()["id"]
    monkeypatch.setattr("service.jobs.service.WATCHERS", 6)

    async def open_streams() -> list[Any]:
        found = await quiet.jobs.job(job)

        async def begun(client: str) -> AsyncGenerator[Job | None, None]:
            stream = quiet.jobs.watch(found, client=client)
            assert await anext(stream) is None
            return stream

        own = [await begun("one") for _ in range(2)]
        with pytest.raises(Overloaded, match="this client"):
            await begun("one")
        others = [await begun(client) for client in ("two", "two", "three", "three")]
        with pytest.raises(Overloaded, match="too many clients"):
            await begun("four")
        seen = [await anext(stream) for stream in (*own, *others)]
        for stream in (*own, *others):
            await stream.aclose()
        return seen

    seen = quiet.run(open_streams())
    assert [state.id for state in seen] == [job] * 6
    assert not quiet.jobs._watchers
    quiet.ask("DELETE", f"/v1/jobs/{job}")


@pytest.mark.parametrize(
    "options",
    [
        {},  # the defaults
        *({"size": 512, "steps": 300, "levels": levels} for levels in (1, 2, 4)),
        *({"size": 1024, "steps": 150, "levels": levels} for levels in (1, 2, 4)),
        {"size": 512, "steps": 1000, "style_size": 1024},
    ],
)
def test_ordinary_jobs_are_within_the_bound(quiet: JobApi, options: dict[str, int]) -> None:
    quiet.run(quiet.jobs.admit(OptimiseOptions.of(options)))


@pytest.mark.parametrize(
    ("options", "timeout"),
    [
        *(({"size": 1024, "steps": 1000} | levels, 1800) for levels in ({}, {"levels": 4})),
        *(({"size": 1024, "steps": 1000, "levels": levels}, 3600) for levels in (1, 2)),
        *(({"size": size, "steps": 900, "levels": 2}, 60) for size in (64, 256, 700)),
    ],
)
def test_a_job_of_too_many_steps_is_refused_with_the_most_that_fit(
    quiet: JobApi, options: dict[str, int], timeout: float
) -> None:
    service = JobService(quiet.jobs.backend, quiet.engine, timeout=timeout)
    with pytest.raises(ParameterInvalid, match="at most") as refusal:
        quiet.run(service.admit(OptimiseOptions.of(options)))
    assert refusal.value.parameter == "steps"
    (most,) = re.findall(r"(\d+) at most", str(refusal.value))
    assert 0 < int(most) < options["steps"]
    quiet.run(service.admit(OptimiseOptions.of(options | {"steps": int(most)})))
    with pytest.raises(ParameterInvalid):
        quiet.run(service.admit(OptimiseOptions.of(options | {"steps": int(most) + 1})))


def test_where_no_step_fits_it_is_the_size(quiet: JobApi) -> None:
    service = JobService(quiet.jobs.backend, quiet.engine, timeout=4.0)
    with pytest.raises(ParameterInvalid) as refusal:
        quiet.run(service.admit(OptimiseOptions(size=1024, steps=1, levels=1)))
    assert refusal.value.parameter == "size"


def test_a_job_is_refused_before_its_images_are_looked_at(quiet: JobApi) -> None:
    def post(**parameters: int) -> httpx.Response:
        return quiet.ask("POST", "/v1/stylize/jobs", params=parameters, content=b"neither form nor JSON")

    assert refused(post(size=1024, steps=1000, levels=2), 422, "parameter_invalid")["parameter"] == "steps"
    jobs = [quiet.submit().headers["location"] for _ in range(2)]
    many = post(size=64, steps=1)
    refused(many, 429, "overloaded")
    assert 1 <= int(many.headers["retry-after"]) <= 60
    for job in jobs:
        quiet.ask("DELETE", job)


def test_nothing_refers_to_what_was_sent_once_it_is_decoded(
    quiet: JobApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    seen: list[int] = []

    class Sent(bytes):
        """`bytes` itself cannot tell of its end."""

        def __del__(self) -> None:
            dropped.append(len(self))

    def encoded(*_: object) -> bytes:
        seen.append(len(dropped))
        return CONTENT

    monkeypatch.setattr("service.jobs.service.encode", encoded)
    job = quiet.run(
        quiet.jobs.submit({"content": Sent(CONTENT), "style": Sent(STYLE)}, OptimiseOptions.of(SMALL))
    )
    assert seen == [1, 2]
    quiet.run(quiet.jobs.cancel(job.id))


def test_where_keys_are_needed_a_job_is_its_keys(tmp_path: Path) -> None:
    api = JobApi(tmp_path, keys=("one", "two"), waiting=4)
    api.begun = False
    api.backend.start()
    try:
        mine, other = {"x-api-key": "one"}, {"authorization": "Bearer two"}
        submit = {"params": SMALL, "files": FILES}
        refused(api.ask("POST", "/v1/stylize/jobs", **submit), 401, "unauthenticated")
        job = api.ask("POST", "/v1/stylize/jobs", headers=mine, **submit)
        here = job.headers["location"]
        for method, path in (
            ("GET", ""),
            ("GET", "/result"),
            ("GET", "/preview"),
            ("GET", "/events"),
            ("DELETE", ""),
        ):
            denied = api.ask(method, here + path, headers=other)
            unknown = api.ask(method, f"/v1/jobs/{'0' * 32}{path}", headers=other)
            assert (
                refused(denied, 404, "job_unknown")["detail"]
                == refused(unknown, 404, "job_unknown")["detail"]
            )
        assert api.ask("GET", here, headers=mine).json()["state"] == "queued"
        for _ in range(2):
            api.ask("POST", "/v1/stylize/jobs", headers=mine, **submit)
        full = api.ask("POST", "/v1/stylize/jobs", headers=mine, **submit)
        assert "this client" in refused(full, 429, "overloaded")["detail"]
        assert api.ask("POST", "/v1/stylize/jobs", headers=other, **submit).status_code == 202
        assert api.ask("DELETE", here, headers={"authorization": "Bearer one"}).json()["state"] == "cancelled"
    finally:
        api.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8:1:2::3", "2001:db8:1:2:ffff::4", True),
        ("2001:db8:1:2::3", "2001:db8:1:3::3", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", None, True),
    ],
)
def test_without_keys_a_client_is_an_address(
    quiet: JobApi, one: str | None, other: str | None, same: bool
) -> None:
    def client(address: str | None) -> str:
        found = None if address is None else [address, 1234]
        scope = {"type": "http", "client": found, "headers": []}
        return client_of(Request(scope, empty_receive, quiet.service, RequestContext("http", "one")))

    assert (client(one) == client(other)) == same


def test_a_worker_that_ends_takes_no_jobs_and_ends_its_streams(quiet: JobApi) -> None:
    job = quiet.submit().json()["id"]
    quiet.engine.draining = True
    try:
        stream = quiet.ask("GET", f"/v1/jobs/{job}/events")
        assert [event["event"] for event in events_of(stream.text)] == ["queued", "interrupted"]
        assert stream.text.startswith("retry: 2000\n\n"), "the client comes back, to another worker"
        refused(quiet.submit(), 503, "not_ready")
    finally:
        quiet.engine.draining = False
    quiet.ask("DELETE", f"/v1/jobs/{job}")


def test_a_stream_says_that_it_lives(quiet: JobApi, monkeypatch: pytest.MonkeyPatch) -> None:
    job = quiet.submit().json()["id"]
    monkeypatch.setattr("service.jobs.service.QUIET", 1)

    async def watch() -> list[Any]:
        changes = quiet.jobs.watch(await quiet.jobs.job(job))
        return [await anext(changes) for _ in range(3)]

    begun, first, second = quiet.run(watch())
    assert (begun, first.state, second) == (None, State.QUEUED, None)
    quiet.ask("DELETE", f"/v1/jobs/{job}")


def test_a_disk_that_fails_is_told_and_costs_nothing_else(
    quiet: JobApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quiet.store, "submit", full)
    answer = quiet.submit()
    assert "space" not in refused(answer, 503, "storage_failed")["detail"]
    assert answer.headers["retry-after"] == "10"
    assert "No space left" in caplog.text
    monkeypatch.undo()
    job = quiet.submit()
    assert quiet.ask("DELETE", job.headers["location"]).json()["state"] == "cancelled"


def test_without_the_network_there_are_no_jobs(tmp_path: Path) -> None:
    api = JobApi(tmp_path, jobs=False)
    api.backend.start()
    try:
        assert "efficientnet-lite0" in refused(api.submit(), 404, "model_unknown")["detail"]
        refused(api.ask("GET", "/v1/jobs/any"), 404, "job_unknown")
    finally:
        api.close()
