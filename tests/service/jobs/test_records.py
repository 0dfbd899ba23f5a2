"""Records of jobs in a real Redis: whatever comes in whatever order, a job ends once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import JobFinished, JobUnknown, Overloaded
from service.jobs.backend import BackendError
from service.jobs.job import Reason, State
from service.jobs.records import IMAGE_BYTES, PREFIX, JobRecords
from tests.service.jobs.redis_server import RedisServer, needs_redis
from tests.service.jobs.small import new_job

pytestmark = needs_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def records(server: RedisServer) -> JobRecords:
    server.client.flushall()
    return JobRecords(server.client, max_waiting=4, expiry=100)


def submit(records: JobRecords, job: str = "one", client: str = "me") -> None:
    records.submit(job, new_job({"size": 64}, 3, client=client, work=2.0))


def sizes(server: RedisServer) -> dict[str, int]:
    return {name: server.client.scard(f"{PREFIX}{name}") for name in ("queued", "running", "waiting:me")}


def test_a_job_from_its_submission_to_its_result(server: RedisServer, records: JobRecords) -> None:
    submit(records)
    job = records.get("one")
    assert (job.state, job.step, job.steps, job.client, job.options) == (
        State.QUEUED,
        0,
        3,
        "me",
        {"size": 64},
    )
    assert (job.started, job.finished, job.expires, job.losses, job.eta, job.preview) == (None,) * 5 + (
        False,
    )
    assert sizes(server) == {"queued": 1, "running": 0, "waiting:me": 1}

    attempt = records.begin("one")
    assert attempt == 1
    assert sizes(server) == {"queued": 0, "running": 1, "waiting:me": 0}
    running = records.get("one")
    assert (running.state, running.busy) == (State.RUNNING, True)
    assert records.progress("one", 1, 2, {"style": 0.25}, 3.5, b"small")
    seen = records.get("one")
    assert (seen.step, seen.losses, seen.eta, seen.preview) == (2, {"style": 0.25}, 3.5, True)
    assert job.revision < running.revision < seen.revision
    assert records.image("one", "preview") == b"small"

    assert records.finish("one", State.SUCCEEDED, attempt=1, result=b"image")
    done = records.get("one")
    assert (done.state, done.busy, done.eta) == (State.SUCCEEDED, False, None)
    assert done.started is not None
    assert done.finished is not None
    assert job.created <= done.started <= done.finished
    assert done.expires == pytest.approx(done.finished + 100)
    assert records.image("one", "result") == b"image"
    assert sizes(server) == {"queued": 0, "running": 0, "waiting:me": 0}
    with pytest.raises(JobUnknown):
        records.image("one", "content")  # what was sent is not kept


def test_everything_that_is_kept_expires(server: RedisServer, records: JobRecords) -> None:
    submit(records, "waits")
    submit(records, "ends")
    attempt = records.begin("ends")
    assert attempt
    records.progress("ends", attempt, 1, {"style": 1}, None, b"small")
    assert min(server.client.ttl(key) for key in server.client.scan_iter(f"{PREFIX}job:*")) > 1000
    records.finish("ends", State.SUCCEEDED, attempt=attempt, result=b"image")
    ends = list(server.client.scan_iter(f"{PREFIX}job:ends*"))
    assert len(ends) == 3
    assert all(0 < server.client.ttl(key) <= 100 for key in ends)


def test_the_run_of_a_lost_worker_changes_nothing(records: JobRecords) -> None:
    submit(records)
    assert records.begin("one") == 1
    assert records.requeue("one", 1)
    assert records.get("one").state is State.QUEUED
    assert not records.progress("one", 1, 3, {"style": 1}, None)
    assert records.begin("one") == 2
    assert not records.requeue("one", 1)
    assert not records.progress("one", 1, 3, {"style": 1}, None)
    assert not records.finish("one", State.SUCCEEDED, attempt=1, result=b"old")
    assert records.get("one").step == 0
    assert records.finish("one", State.SUCCEEDED, attempt=2, result=b"new")
    assert records.image("one", "result") == b"new"


def test_a_cancelled_job_is_not_begun_and_not_finished(server: RedisServer, records: JobRecords) -> None:
    submit(records)
    assert records.cancel("one").state is State.CANCELLED
    assert records.begin("one") is None
    submit(records, "two")
    attempt = records.begin("two")
    assert attempt
    cancelled = records.cancel("two")
    assert (cancelled.state, cancelled.busy) == (State.CANCELLED, True), "its process is still there"
    assert not records.progress("two", attempt, 1, {"style": 1}, None)
    records.finish("two", None, attempt=attempt)
    assert not records.get("two").busy
    assert sizes(server) == {"queued": 0, "running": 0, "waiting:me": 0}
    with pytest.raises(JobFinished, match="was cancelled already"):
        records.cancel("two")


def test_the_queue_and_a_clients_share_of_it_are_bounded(records: JobRecords) -> None:
    submit(records, "a1", "a")
    submit(records, "a2", "a")
    with pytest.raises(Overloaded, match="this client") as refused:
        submit(records, "a3", "a")
    assert refused.value.retry_after
    with pytest.raises(Overloaded):
        records.check_room("a")
    records.check_room("b")
    submit(records, "b1", "b")
    submit(records, "c1", "c")
    with pytest.raises(Overloaded, match="4 jobs wait"):
        submit(records, "d1", "d")
    with pytest.raises(JobUnknown):
        records.image("d1", "content")
    records.begin("a1")
    submit(records, "d1", "d")


def test_another_versions_jobs_are_refused_with_the_reason(server: RedisServer, records: JobRecords) -> None:
    submit(records)
    other = JobRecords(server.client, version="9.9.9")
    assert other.begin("one") is None
    failed = records.get("one")
    assert (failed.state, failed.reason) == (State.FAILED, Reason.VERSION)
    server.client.hset(f"{PREFIX}job:one", mapping={"format": "0", "version": "9.9.9"})
    with pytest.raises(JobUnknown, match=r"version 9\.9\.9"):
        records.get("one")


def test_an_image_is_bounded(records: JobRecords) -> None:
    submit(records)
    attempt = records.begin("one")
    with pytest.raises(BackendError, match="at most"):
        records.finish("one", State.SUCCEEDED, attempt=attempt, result=bytes(IMAGE_BYTES + 1))


def test_an_unknown_job(records: JobRecords) -> None:
    for ask in (records.get, records.cancel, lambda job: records.image(job, "result")):
        with pytest.raises(JobUnknown):
            ask("none")
    assert records.begin("none") is None
    assert not records.finish("none", State.FAILED)


def test_a_redis_that_is_gone_is_told(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    records = JobRecords(server.client)
    submit(records)
    server.kill()
    for ask in (records.get, records.cancel, records.begin, records.check_room):
        with pytest.raises(BackendError, match="Redis"):
            ask("one")
    server.start()
    assert records.get("one").state is State.QUEUED, "what was accepted is still known"
    server.stop()


OPERATIONS = st.lists(
    st.sampled_from(["begin", "progress", "succeed", "fail", "cancel", "requeue", "release"]).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from((0, 0, 0, 1)))  # how many attempts ago
    ),
    max_size=14,
)


@given(OPERATIONS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_job_ends_once(server: RedisServer, operations: list[tuple[str, int]]) -> None:
    server.client.flushall()
    records = JobRecords(server.client)
    submit(records)
    attempts, ends, revision = 0, 0, 0
    for name, back in operations:
        before = records.get("one")
        attempt = attempts - back
        if name == "begin":
            begun = records.begin("one")
            assert (begun is None) == before.final
            attempts = begun or attempts
        elif name == "progress":
            wanted = records.progress("one", attempt, 1, {"style": 1}, None)
            assert wanted == (before.state is State.RUNNING and attempt == attempts)
        elif name in ("succeed", "fail") and attempts:
            state = State.SUCCEEDED if name == "succeed" else State.FAILED
            ends += records.finish("one", state, attempt=attempt, result=b"image")
        elif name == "cancel" and not before.final:
            records.cancel("one")
            ends += 1
        elif name == "requeue":
            records.requeue("one", attempt)
        elif name == "release":
            records.finish("one", None, attempt=attempt)
        found = records.get("one")
        assert found.revision >= revision
        assert (found == before) or found.revision > revision or found.busy != before.busy
        revision = found.revision
        assert ends == found.final
        queued, running = (
            server.client.sismember(f"{PREFIX}{state}", "one") for state in ("queued", "running")
        )
        assert (queued, running) == (found.state is State.QUEUED, found.busy)
        if before.final:
            assert found.state is before.state
