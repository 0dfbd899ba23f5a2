"""The jobs' store, with a clock that tests move: who gets which job, what ends how, what is kept how long."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.errors import JobFinished, JobUnknown, Overloaded
from service.jobs.job import Job, Reason, State
from service.jobs.store import FILE, INPUTS, JobStore
from tests.service.jobs.small import new_job


class Clock:
    """A wall clock that may be set, beside an uptime that only passes."""

    def __init__(self) -> None:
        self.set, self.passed = 1_000_000.0, 50.0

    def wall(self) -> float:
        return self.set + self.passed

    def uptime(self) -> float:
        return self.passed


class Now:
    """Seconds since 1970, as a test wants them."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def store(tmp_path: Path, now: Now) -> Iterator[JobStore]:
    store = JobStore(tmp_path, max_jobs=1, max_waiting=2, expiry=60, now=now, uptime=now)
    store.open()
    yield store
    store.close()


def submit(store: JobStore, client: str = "one", work: float = 1.0) -> Job:
    return store.submit(new_job({"size": 64}, 4, client=client, work=work))


def served(store: JobStore) -> str:
    """The id of the job that is next; it runs and is over."""
    job = store.claim("me")
    assert job is not None
    store.release(job.id, "me", State.SUCCEEDED)
    return job.id


def test_a_job_waits_runs_and_succeeds(store: JobStore, now: Now) -> None:
    job = submit(store)
    assert (job.state, job.step, job.steps, job.options) == (State.QUEUED, 0, 4, {"size": 64})
    assert [store.path(job.id, name).read_bytes() for name in INPUTS] == [b"content", b"style"]
    now.seconds += 5
    claimed = store.claim("me")
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.busy, claimed.started) == (job.id, State.RUNNING, True, 1005)
    assert store.progress(job.id, "me", 1, {"style": 0.2}, None, preview=True)
    assert store.progress(job.id, "me", 2, {"style": 0.5}, 7.5, preview=False)
    seen = store.get(job.id)
    assert (seen.step, seen.losses, seen.eta, seen.preview) == (2, {"style": 0.5}, 7.5, True)
    now.seconds += 5
    done = store.release(job.id, "me", State.SUCCEEDED)
    assert (done.state, done.busy, done.reason, done.eta) == (State.SUCCEEDED, False, None, None)
    assert (done.created, done.started, done.finished, done.expires) == (1000, 1005, 1010, 1070)
    assert not any(store.path(job.id, name).exists() for name in INPUTS)
    revisions = [job.revision, claimed.revision, seen.revision, done.revision]
    assert sorted(set(revisions)) == revisions


def test_the_first_waits_least(store: JobStore) -> None:
    jobs = [submit(store, client) for client in ("one", "two", "three")]
    for job in jobs:
        claimed = store.claim("me")
        assert claimed is not None
        assert claimed.id == job.id
        assert store.claim("you") is None, "one at a time, whichever worker asks"
        store.release(job.id, "me", State.SUCCEEDED)
    assert store.claim("me") is None


def test_there_is_room_for_so_many(store: JobStore) -> None:
    jobs = [submit(store, client) for client in ("one", "one", "two")]
    with pytest.raises(Overloaded) as caught:
        submit(store, "three")
    assert caught.value.retry_after == 1, "the first of them is begun at once"
    assert len(list((store.folder / "jobs").iterdir())) == 3
    claimed = store.claim("me")
    assert claimed is not None
    store.progress(claimed.id, "me", 1, {"style": 0}, 25.0, preview=False)
    with pytest.raises(Overloaded) as caught:
        submit(store, "three")
    assert caught.value.retry_after == 25, "when the running one should be over"
    store.cancel(jobs[1].id)
    submit(store, "three")


@pytest.mark.parametrize(
    ("most", "waiting", "share"), [(1, 8, 4), (1, 7, 4), (1, 1, 1), (1, 0, 0), (2, 8, 4), (3, 5, 3)]
)
def test_a_client_has_half_of_the_places_to_wait(tmp_path: Path, most: int, waiting: int, share: int) -> None:
    store = JobStore(tmp_path, max_jobs=most, max_waiting=waiting)
    store.open()
    for _ in range(most + share):  # as many as run are begun at once
        submit(store, "greedy")
    for _ in range(most + 1):  # the same when they run
        with pytest.raises(Overloaded):
            submit(store, "greedy")
        store.claim("me")
    assert store.counts() == {State.QUEUED: share, State.RUNNING: most}
    for _ in range(waiting - share):
        submit(store, "other")
    with pytest.raises(Overloaded):
        submit(store, "third")
    store.close()


def test_clients_take_turns(tmp_path: Path) -> None:
    store = JobStore(tmp_path, max_waiting=20)
    store.open()
    greedy = [submit(store, "greedy").id for _ in range(5)]
    order = [served(store)]
    two = [submit(store, "two").id for _ in range(2)]
    three = [submit(store, "three").id]
    order += [served(store) for _ in range(3)]
    assert order[1:] == [greedy[1], two[0], three[0]]
    late = [submit(store, "late").id]
    assert [served(store) for _ in range(5)] == [greedy[2], two[1], late[0], greedy[3], greedy[4]]
    store.close()


def test_cancelled_jobs_cost_their_client_no_turn(store: JobStore) -> None:
    for _ in range(5):
        store.cancel(submit(store, "one").id)
    own, others = submit(store, "one"), submit(store, "two")
    assert [served(store), served(store)] == [own.id, others.id]


def test_a_refused_client_is_told_how_long_it_takes(tmp_path: Path, now: Now) -> None:
    store = JobStore(tmp_path, max_jobs=1, max_waiting=4, now=now, uptime=now)
    store.open()

    def refused(client: str) -> float:
        with pytest.raises(Overloaded) as caught:
            submit(store, client)
        assert caught.value.retry_after is not None
        return caught.value.retry_after

    for client in ("one", "two", "two", "one", "one"):
        submit(store, client, work=100.0)
    store.claim("me")
    now.seconds += 30
    assert refused("three") == 70, "until the job that runs is over"
    store.cancel(submitted_by(store, "two")[1])
    assert refused("one") == 170, "until the first of its own begins, after one of the other client"
    job = store.wanted("me").pop()
    now.seconds += 170
    store.release(job, "me", State.SUCCEEDED)  # it took twice as long as estimated
    store.claim("me")
    submit(store, "two", work=1.0)
    submit(store, "three", work=1.0)
    assert refused("four") == 200
    now.seconds += 10_000
    assert refused("four") == 1, "overdue"
    store.close()


def submitted_by(store: JobStore, client: str) -> list[str]:
    with store._db() as db:
        rows = db.execute("SELECT id FROM jobs WHERE client = ? ORDER BY number", (client,)).fetchall()
    return [row["id"] for row in rows]


def test_files_are_their_owners_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = JobStore(tmp_path / "new" / "state")
        store.open()
        job = submit(store)
        modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "new" / "state").rglob("*")}
    finally:
        os.umask(before)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    for path, mode in modes.items():
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert {store.path(job.id, name) for name in INPUTS} < modes.keys()
    assert any(path.name.endswith("-wal") for path in modes)
    store.close()


def test_a_job_is_claimed_by_one_of_many_workers(tmp_path: Path, store: JobStore) -> None:
    job = submit(store)
    others = [JobStore(tmp_path) for _ in range(6)]
    for other in others:
        other.open()
    with ThreadPoolExecutor(6) as threads:
        claims = list(threads.map(lambda other: other.claim(str(id(other))), others))
    assert [claim.id for claim in claims if claim is not None] == [job.id]
    for other in others:
        other.close()


def test_cancelled_while_waiting(store: JobStore) -> None:
    job = submit(store)
    cancelled = store.cancel(job.id)
    assert (cancelled.state, cancelled.busy) == (State.CANCELLED, False)
    assert not any(store.path(job.id, name).exists() for name in INPUTS)
    assert store.claim("me") is None
    with pytest.raises(JobFinished, match="cancelled already"):
        store.cancel(job.id)


def test_cancelled_while_running_its_place_is_taken_until_the_work_has_stopped(store: JobStore) -> None:
    job, later = submit(store), submit(store)
    store.claim("me")
    assert store.cancel(job.id).busy
    assert store.wanted("me") == set()
    assert not store.progress(job.id, "me", 1, {"style": 0}, None, preview=False)
    assert store.claim("you") is None
    ended = store.release(job.id, "me", State.FAILED, Reason.CRASHED)
    assert (ended.state, ended.reason, ended.busy) == (State.CANCELLED, None, False)
    claimed = store.claim("you")
    assert claimed is not None
    assert claimed.id == later.id


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_what_is_over_is_not_cancelled(store: JobStore, state: State) -> None:
    job = submit(store)
    store.claim("me")
    store.release(job.id, "me", state)
    with pytest.raises(JobFinished, match=f"has {state} already"):
        store.cancel(job.id)
    with pytest.raises(JobUnknown):
        store.cancel("none")


def test_jobs_expire(store: JobStore, now: Now) -> None:
    old, waiting = submit(store), submit(store)
    store.cancel(old.id)
    now.seconds += 59
    store.sweep()
    assert store.get(old.id).expires == 1060
    now.seconds += 1
    with pytest.raises(JobUnknown):
        store.get(old.id)  # to the second, swept or not
    store.sweep()
    assert {folder.name for folder in (store.folder / "jobs").iterdir()} == {waiting.id}


def test_a_restart_fails_what_was_not_over(tmp_path: Path, store: JobStore, now: Now) -> None:
    done, running, waiting = (submit(store, client) for client in ("one", "two", "three"))
    store.claim("me")
    store.path(done.id, "result.png").write_bytes(b"picture")
    store.release(done.id, "me", State.SUCCEEDED)
    store.claim("me")
    store.path(running.id, "preview.png").write_bytes(b"picture")
    (tmp_path / "jobs" / "litter").mkdir()
    store.close()

    again = JobStore(tmp_path, now=now, uptime=now)
    again.open()
    again.restart()
    assert again.get(done.id).state is State.SUCCEEDED
    assert again.path(done.id, "result.png").exists()
    for job in (running, waiting):
        found = again.get(job.id)
        assert (found.state, found.reason, found.busy) == (State.FAILED, Reason.RESTARTED, False)
        assert not any(again.path(job.id, name).exists() for name in INPUTS)
    assert again.path(running.id, "preview.png").exists()
    assert not (tmp_path / "jobs" / "litter").exists()
    assert again.owners() == set()
    assert again.counts() == {State.QUEUED: 0, State.RUNNING: 0}
    again.close()


def test_a_dead_worker_loses_its_job_and_no_other(store: JobStore) -> None:
    job, waiting = submit(store), submit(store)
    store.claim("dead")
    assert store.owners() == {"dead"}
    store.forsake("dead")
    assert store.get(job.id).reason is Reason.RESTARTED
    claimed = store.claim("alive")
    assert claimed is not None
    assert claimed.id == waiting.id
    assert store.release(job.id, "dead", State.SUCCEEDED).state is State.FAILED  # it was not dead: too late


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(store: JobStore) -> None:
    with store._db() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own full disk
    with pytest.raises(sqlite3.Error, match="full"):
        store.submit(new_job({"text": "x" * 100_000}, 4))
    assert list((store.folder / "jobs").iterdir()) == []
    assert store.counts() == {State.QUEUED: 0, State.RUNNING: 0}
    submit(store)


def test_before_it_is_open_it_says_so(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "none")
    with pytest.raises(sqlite3.Error, match="not open"):
        store.get("any")
    (tmp_path / "none").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="none"):
        store.open()
    store.close()


class Life(RuleBasedStateMachine):
    """Any client may do anything at any time; the bounds hold, and what is over stays as it is."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.now = Now()
        self.store = JobStore(
            Path(self.folder.name), max_jobs=2, max_waiting=2, expiry=50, now=self.now, uptime=self.now
        )
        self.store.open()
        self.jobs: list[str] = []
        self.final: dict[str, Job] = {}

    def job(self, index: int) -> str:
        return self.jobs[index % len(self.jobs)] if self.jobs else "none"

    @rule(client=st.sampled_from(["one", "two", "three"]))
    def submit(self, client: str) -> None:
        counts = self.store.counts()
        own = sum(
            self.store.get(job).state is State.QUEUED
            for job in submitted_by(self.store, client)
            if job not in self.final
        )
        room = sum(counts.values()) < 4 and own < max(0, 2 - counts[State.RUNNING]) + 1
        if room:
            self.jobs.append(submit(self.store, client).id)
            return
        with pytest.raises(Overloaded) as refusal:
            submit(self.store, client)
        assert refusal.value.retry_after is not None
        assert 1 <= refusal.value.retry_after <= 3600

    @rule(owner=st.sampled_from("ab"))
    def claim(self, owner: str) -> None:
        before = self.store.counts()
        claimed = self.store.claim(owner)
        assert claimed is None or before[State.QUEUED]

    @rule(index=st.integers(0, 9), owner=st.sampled_from("ab"))
    def progress(self, index: int, owner: str) -> None:
        job = self.job(index)
        wanted = job in self.store.wanted(owner)
        assert self.store.progress(job, owner, 1, {"style": 0}, 1.0, preview=False) == wanted

    @rule(index=st.integers(0, 9))
    def cancel(self, index: int) -> None:
        try:
            assert self.store.cancel(self.job(index)).state is State.CANCELLED
        except JobFinished:
            assert self.job(index) in self.final
        except JobUnknown:
            assert self.job(index) not in self.final or self.now.seconds >= 50

    @rule(index=st.integers(0, 9), owner=st.sampled_from("ab"), good=st.booleans())
    def release(self, index: int, owner: str, good: bool) -> None:
        state, reason = (State.SUCCEEDED, None) if good else (State.FAILED, Reason.CRASHED)
        try:
            self.store.release(self.job(index), owner, state, reason)
        except JobUnknown:
            assert not self.jobs or self.job(index) not in self.store.wanted(owner)

    @rule(owner=st.sampled_from("ab"))
    def die(self, owner: str) -> None:
        self.store.forsake(owner)
        assert owner not in self.store.owners()

    @rule(seconds=st.integers(1, 40))
    def later(self, seconds: int) -> None:
        self.now.seconds += seconds
        self.store.sweep()

    @invariant()
    def bounds_hold(self) -> None:
        counts = self.store.counts()
        assert counts[State.RUNNING] <= 2
        assert sum(counts.values()) <= 4
        for name in self.jobs:
            try:
                found = self.store.get(name)
            except JobUnknown:
                continue
            if name in self.final:
                kept = self.final[name]
                assert (found.state, found.reason, found.finished) == (kept.state, kept.reason, kept.finished)
            if found.final:
                self.final[name] = found
                assert found.eta is None
                assert found.finished is not None
            assert found.busy == (found.state is State.RUNNING) or found.state is State.CANCELLED

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


Life.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_any_order_of_events = Life.TestCase


@pytest.mark.parametrize("jump", [7 * 86400.0, -7 * 86400.0])
def test_a_clock_that_is_set_anew_expires_nothing(tmp_path: Path, jump: float) -> None:
    clock = Clock()
    here, there = (JobStore(tmp_path, expiry=60, now=clock.wall, uptime=clock.uptime) for _ in range(2))
    here.open()
    there.open()
    job = submit(here)
    here.claim("me")
    clock.passed += 10
    here.release(job.id, "me", State.SUCCEEDED)
    clock.set += jump
    assert here.get(job.id).state is State.SUCCEEDED
    here.sweep()
    there.sweep()
    for store in (here, there):
        found = store.get(job.id)
        assert found.finished == pytest.approx(clock.wall())
        assert found.created == pytest.approx(clock.wall() - 10)
        assert found.expires == pytest.approx(clock.wall() + 60)
    clock.passed += 59
    here.sweep()
    assert there.get(job.id).state is State.SUCCEEDED
    clock.passed += 2
    with pytest.raises(JobUnknown):
        there.get(job.id)
    here.sweep()
    assert not (tmp_path / "jobs" / job.id).exists()
    here.close()
    there.close()


def test_a_worker_that_has_not_seen_the_new_clock_looks_before_it_says_expired(tmp_path: Path) -> None:
    clock = Clock()
    here, there = (JobStore(tmp_path, expiry=60, now=clock.wall, uptime=clock.uptime) for _ in range(2))
    here.open()
    there.open()
    job = submit(here)
    here.cancel(job.id)
    clock.set -= 1000
    here.sweep()  # moves the times
    assert there.get(job.id).state is State.CANCELLED
    here.close()
    there.close()


def test_who_reads_waits_for_no_writer(store: JobStore) -> None:
    job = submit(store)
    other = sqlite3.connect(store.folder / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert store.get(job.id).state is State.QUEUED
    store.check_room("two")
    assert store.counts()[State.QUEUED] == 1
    other.execute("ROLLBACK")
    other.close()


def test_a_folder_that_is_removed_or_replaced_is_noticed(store: JobStore) -> None:
    job = submit(store)
    assert not store.lost
    shutil.rmtree(store.folder)
    assert store.lost
    store.close()
    assert not store.lost
    store.open()
    assert not store.lost
    with pytest.raises(JobUnknown):
        store.get(job.id)
    submit(store)
    (store.folder / FILE).rename(store.folder / "away")
    (store.folder / FILE).touch()
    assert store.lost
