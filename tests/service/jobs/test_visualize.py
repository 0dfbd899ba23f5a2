"""Visualisations as jobs: over HTTP with real processes, and by a job worker with a real Redis."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.jobs.job import Files, JobKind, NewJob, State
from service.jobs.liveness import WorkerRegistry
from service.jobs.local import LocalJobs
from service.jobs.records import JobRecords
from service.jobs.service import JobService
from service.jobs.store import JobStore
from service.jobs.worker import JobRunner
from tests.service.jobs.redis_server import RedisServer, needs_redis
from tests.service.jobs.small import until
from tests.service.transports import Transports, open_transports, pipeline

PATH = "/v1/models/lenet5/visualize/jobs"


@pytest.fixture(scope="module")
def transports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transports]:
    folder: Path = tmp_path_factory.mktemp("jobs") / "state"
    with open_transports([pipeline("lenet5")]) as opened:
        backend = LocalJobs(JobStore(folder), WorkerRegistry(folder / "workers"), Files(None), opened.metrics)
        backend.start()
        opened.service.jobs = JobService(backend, opened.engine, stylizes=False)
        yield opened
        backend.stop()


def submitted(transports: Transports, **parameters: Any) -> httpx.Response:
    return transports.http("POST", PATH, params=parameters)


def ended(transports: Transports, answer: httpx.Response) -> dict[str, Any]:
    here = answer.headers["location"]
    until(lambda: transports.http("GET", here).json()["state"] not in ("queued", "running"))
    found: dict[str, Any] = transports.http("GET", here).json()
    return found


def test_a_label_becomes_an_image_and_the_seed_decides_which(transports: Transports) -> None:
    pictures = []
    for seed in (1, 1, 2):
        answer = submitted(transports, label="3", steps=4, preview_every=2, seed=seed)
        assert answer.status_code == 202, answer.text
        assert (answer.json()["kind"], answer.json()["steps"]) == ("visualize", 4)
        done = ended(transports, answer)
        assert (done["state"], done["step"], done["losses"]) == ("succeeded", 4, None)
        assert isinstance(done["activation"], float)
        image = transports.http("GET", done["result"], headers={"Accept": "image/png"}).content
        pictures.append(np.asarray(Image.open(io.BytesIO(image))))
        assert transports.http("GET", done["preview"]).headers["content-type"] == "image/jpeg"
    assert pictures[0].shape == (32, 32, 3)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()


def test_a_channel_of_a_layer_and_a_cancelled_job(transports: Transports) -> None:
    answer = submitted(transports, layer="features.3", channel=2, steps=2048, size=64, preview_every=1)
    here = answer.headers["location"]
    until(lambda: transports.http("GET", here).json()["step"] > 0)
    preview = transports.http("GET", f"{here}/preview", headers={"Accept": "image/png"})
    assert Image.open(io.BytesIO(preview.content)).size == (64, 64)
    assert transports.http("DELETE", here).json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("parameters", "parameter", "says"),
    [
        ({}, "channel", "give a channel of a layer, or a label"),
        ({"layer": "features.3"}, "channel", "give a channel"),
        ({"label": "1", "channel": 2}, "label", "not both"),
        ({"label": "eleven"}, "label", "no label 'eleven'"),
        ({"layer": "feature.3", "channel": 2}, "layer", "did you mean features.3"),
        ({"layer": "features.3", "channel": 16}, "channel", "channels 0 to 15"),
        ({"label": "1", "steps": 0}, "steps", "greater than or equal to 1"),
        ({"chanel": 1}, "chanel", "did you mean 'channel'"),
    ],
)
def test_what_is_not_there_is_refused(
    transports: Transports, parameters: dict[str, Any], parameter: str, says: str
) -> None:
    problem = submitted(transports, **parameters).json()
    assert (problem["status"], problem["code"], problem["parameter"]) == (422, "parameter_invalid", parameter)
    assert says in problem["detail"]


def test_other_models_and_dear_jobs_are_refused(transports: Transports) -> None:
    unknown = transports.http("POST", "/v1/models/none/visualize/jobs", params={"label": "1"}).json()
    assert (unknown["status"], unknown["code"]) == (404, "model_unknown")
    jobs = transports.service.jobs
    assert jobs is not None
    jobs._budget, kept = 1.0, jobs._budget
    dear = submitted(transports, label="1", size=512, steps=2048).json()
    jobs._budget = kept
    assert (dear["status"], dear["parameter"]) == (422, "steps")
    style = transports.http("POST", "/v1/stylize/jobs").json()
    assert (style["status"], style["code"]) == (404, "model_unknown")


@needs_redis
def test_a_job_worker_runs_it(tmp_path: Path) -> None:
    card = pipeline("lenet5").card
    options = {"label": "3", "steps": 3, "preview_every": 2, "model": "lenet5", "sha256": card.sha256}
    server = RedisServer(tmp_path)
    try:
        records = JobRecords(server.client)
        records.submit("one", NewJob(JobKind.VISUALIZE, options, 3, {}))
        JobRunner(records, Files(None))("one")
        done = records.get("one")
        assert (done.kind, done.state, done.step) == (JobKind.VISUALIZE, State.SUCCEEDED, 3)
        assert set(done.losses or {}) == {"activation"}
        assert Image.open(io.BytesIO(records.image("one", "result"))).size == (32, 32)
        records.submit("two", NewJob(JobKind.VISUALIZE, options | {"sha256": "0" * 64}, 3, {}))
        JobRunner(records, Files(None))("two")
        assert records.get("two").state is State.FAILED
    finally:
        server.stop()
