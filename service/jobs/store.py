"""The jobs of all workers: a SQLite file and a folder of images in the state directory.

Every worker process opens the same file, so each can answer for any job; one of them takes it, in one
statement. Jobs do not outlive the server: see `restart`. Methods may be called from any thread and block
for a moment; all raise sqlite3.Error or OSError when the disk fails them. Readers have a connection of their
own and wait for no writer (SQLite's write-ahead log).

Times are the wall clock's, but they pass as the machine's uptime does: where the clock is set anew, all are
moved along (`keep_time`), so that nothing expires by it.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from service.errors import JobFinished, JobUnknown
from service.jobs.job import IMAGES, Job, NewJob, Reason, State
from service.jobs.turns import Line

FILE = "jobs-4.sqlite"
"""The number is the schema's: another schema begins another file."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
    client TEXT NOT NULL, turn INTEGER NOT NULL, work REAL NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0, owner TEXT, reason TEXT, options TEXT NOT NULL,
    steps INTEGER NOT NULL, step INTEGER NOT NULL DEFAULT 0,
    losses TEXT, eta REAL, preview INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, started REAL, finished REAL
) STRICT
"""
CLOCK = "CREATE TABLE IF NOT EXISTS clock (boot TEXT NOT NULL, wall_at_boot REAL NOT NULL) STRICT"
JUMP = 5.0
"""Seconds between wall clock and uptime, from which the clock has been set anew."""

WAIT = 5.0
"""Seconds that a statement waits for another process's."""

INPUTS = tuple(f"{role}.png" for roles in IMAGES.values() for role in roles)


class JobStore:
    """All jobs.

    Args:
        folder: the state directory; made by `open`.
        max_jobs: how many run at once, over all workers.
        max_waiting: how many wait besides; of one client at most half of them, rounded up.
        expiry: seconds that a finished job is kept.
        now: seconds since 1970.
        uptime: seconds that pass whatever is done to the clock.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_jobs: int = 1,
        max_waiting: int = 8,
        expiry: float = 3600.0,
        now: Callable[[], float] = time.time,
        uptime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.folder = folder
        self._most, self._line = max_jobs, Line(max_jobs, max_waiting)
        self._expiry, self._wall, self._uptime = expiry, now, uptime
        self._wall_at_boot = 0.0
        self._file: tuple[int, int] | None = None
        self._writer, self._reader = _Connection(), _Connection()
        self._db, self._read = self._writer.held, self._reader.held

    def open(self) -> None:
        """Makes what is not there yet. Until then every other method raises sqlite3.Error."""
        if self._file is not None:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # `parents` alone ignores the mode
        (self.folder / "jobs").mkdir(mode=0o700, exist_ok=True)
        # SQLite gives its journal the mode of the file
        os.close(os.open(self.folder / FILE, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            for connection in (self._writer, self._reader):
                connection.open(self.folder / FILE)
            self._file = _identity(self.folder / FILE)
            self.keep_time()
        except (sqlite3.Error, OSError):
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file = None
        self._writer.close()
        self._reader.close()

    @property
    def lost(self) -> bool:
        """The file that is open has been removed or replaced: to be closed, and opened anew."""
        return self._file is not None and self._file != _identity(self.folder / FILE)

    def keep_time(self) -> None:
        """Where the wall clock was set anew, moves all times along."""
        boot = _boot()
        wall_at_boot = self._wall() - self._uptime()

        def known(db: sqlite3.Connection) -> float | None:
            rows = db.execute("SELECT wall_at_boot FROM clock WHERE boot = ?", (boot,)).fetchall()
            return float(rows[0]["wall_at_boot"]) if rows else None

        with self._read() as db:
            before = known(db)
        if before is None or abs(wall_at_boot - before) > JUMP:
            with self._db() as db, _transaction(db):
                before = known(db)  # another worker may have been faster
                if before is None or abs(wall_at_boot - before) > JUMP:
                    moved = 0.0 if before is None else wall_at_boot - before
                    db.execute(
                        "UPDATE jobs SET created = created + :by, started = started + :by,"
                        " finished = finished + :by",
                        {"by": moved},
                    )
                    db.execute("DELETE FROM clock")
                    db.execute("INSERT INTO clock VALUES (?, ?)", (boot, wall_at_boot))
                    before = wall_at_boot
        self._wall_at_boot = before

    def _now(self) -> float:
        return self._wall_at_boot + self._uptime()

    def path(self, job: str, name: str) -> Path:
        """Path of a job's image: one of `INPUTS`, ``preview.png``, ``result.png``."""
        return self.folder / "jobs" / job / name

    def submit(self, new: NewJob) -> Job:
        """A job, which waits.

        Raises:
            Overloaded: too many run and wait, or too many of this client wait.
        """
        self.check_room(new.client)  # before anything is written
        name = uuid.uuid4().hex
        folder = self.folder / "jobs" / name
        try:
            folder.mkdir(mode=0o700)
            for role in IMAGES[new.kind]:
                _write_private(folder / f"{role}.png", new.images[role])
            with self._db() as db, _transaction(db):
                self._line.check_room(db, new.client, self._now())
                turn, options = self._line.turn(db, new.client), json.dumps(dict(new.options))
                row = (name, new.kind, new.client, turn, new.work, options, new.steps)
                db.execute(
                    "INSERT INTO jobs (id, kind, state, client, turn, work, options, steps, created)"
                    " VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
                    (*row, self._now()),
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.get(name)

    def check_room(self, client: str) -> None:
        """Raises what `submit` would for this client now.

        Raises:
            Overloaded: too many run and wait, or too many of this client wait.
        """
        with self._read() as db:
            self._line.check_room(db, client, self._now())

    def get(self, job: str) -> Job:
        """A job as it stands.

        Raises:
            JobUnknown: there is none of that id, or it has expired.
        """
        for attempt in range(2):
            with self._read() as db:
                rows = db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchall()
            if not rows:
                break
            found = self._job(rows[0])
            if found.expires is None or found.expires > self._now():
                return found
            if not attempt:
                self.keep_time()  # or another worker has moved the times
        raise JobUnknown("there is no job of that id, or it has expired")

    def cancel(self, job: str) -> Job:
        """Ends a job; the process that works on it is to stop.

        Raises:
            JobUnknown: there is none of that id.
            JobFinished: it has ended already.
        """
        with self._db() as db:
            done = db.execute(
                "UPDATE jobs SET state = 'cancelled', eta = NULL, finished = ?, revision = revision + 1"
                " WHERE id = ? AND state IN ('queued', 'running')",
                (self._now(), job),
            ).rowcount
        found = self.get(job)
        if not done:
            raise JobFinished(
                f"the job has {found.state} already"
                if found.state is not State.CANCELLED
                else "the job was cancelled already"
            )
        if not found.busy:
            self._discard_inputs(job)
        return found

    def claim(self, owner: str) -> Job | None:
        """The next job (`service.jobs.turns`) becomes `owner`'s; None if none waits or enough are running."""
        with self._db() as db:
            if not db.execute("SELECT 1 FROM jobs WHERE state = 'queued' LIMIT 1").fetchall():
                return None  # the usual case takes no write lock
            rows = db.execute(
                "UPDATE jobs SET state = 'running', owner = ?, started = ?, revision = revision + 1"
                " WHERE number ="
                " (SELECT number FROM jobs WHERE state = 'queued' ORDER BY turn, number LIMIT 1)"
                " AND (SELECT count(*) FROM jobs WHERE owner IS NOT NULL) < ? RETURNING *",
                (owner, self._now(), self._most),
            ).fetchall()
        return self._job(rows[0]) if rows else None

    def progress(
        self,
        job: str,
        owner: str,
        step: int,
        losses: Mapping[str, float],
        eta: float | None,
        preview: bool,
    ) -> bool:
        """A step is done; whether the work is still wanted."""
        with self._db() as db:
            changed = db.execute(
                "UPDATE jobs SET step = ?, losses = ?, eta = ?,"
                " preview = max(preview, ?), revision = revision + 1"
                " WHERE id = ? AND owner = ? AND state = 'running'",
                (step, json.dumps(dict(losses)), eta, preview, job, owner),
            ).rowcount
        return changed == 1

    def release(self, job: str, owner: str, state: State, reason: Reason | None = None) -> Job:
        """The owner's process is gone; a job that was not cancelled meanwhile ends in `state`."""
        with self._db() as db:
            rows = db.execute(
                "UPDATE jobs SET owner = NULL, eta = NULL, finished = coalesce(finished, ?),"
                " revision = revision + (state = 'running'),"
                " reason = CASE state WHEN 'running' THEN ? ELSE reason END,"
                " state = CASE state WHEN 'running' THEN ? ELSE state END"
                " WHERE id = ? AND owner = ? RETURNING *",
                (self._now(), reason, state, job, owner),
            ).fetchall()
        self._discard_inputs(job)
        return self._job(rows[0]) if rows else self.get(job)

    def wanted(self, owner: str) -> set[str]:
        """The running jobs of `owner`."""
        with self._read() as db:
            rows = db.execute("SELECT id FROM jobs WHERE owner = ? AND state = 'running'", (owner,))
            return {row["id"] for row in rows.fetchall()}

    def owners(self) -> set[str]:
        """The owners of running jobs."""
        with self._read() as db:
            rows = db.execute("SELECT DISTINCT owner FROM jobs WHERE owner IS NOT NULL").fetchall()
        return {row["owner"] for row in rows}

    def counts(self) -> dict[State, int]:
        """How many jobs wait and run."""
        with self._read() as db:
            rows = db.execute("SELECT state, count(*) AS jobs FROM jobs GROUP BY state").fetchall()
        found = {row["state"]: row["jobs"] for row in rows}
        return {state: found.get(state, 0) for state in (State.QUEUED, State.RUNNING)}

    def forsake(self, owner: str) -> None:
        """A worker has died: its running jobs have failed."""
        for job in self._fail(owner):
            self._discard_inputs(job)

    def restart(self) -> None:
        """A server starts and no worker is alive: unfinished jobs have failed; leftover files are removed."""
        self._fail(None)
        with self._db() as db:
            known = {row["id"]: row["state"] for row in db.execute("SELECT id, state FROM jobs").fetchall()}
        for folder in (self.folder / "jobs").iterdir():
            if folder.name in known:
                self._discard_inputs(folder.name)
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Removes what has expired."""
        self.keep_time()
        with self._db() as db:
            rows = db.execute(
                "DELETE FROM jobs WHERE finished <= ? AND owner IS NULL RETURNING id",
                (self._now() - self._expiry,),
            ).fetchall()
        for row in rows:
            shutil.rmtree(self.folder / "jobs" / row["id"], ignore_errors=True)

    def _fail(self, owner: str | None) -> list[str]:
        """Fails an owner's running jobs, or with None all that are not over; the ids."""
        with self._db() as db:
            rows = db.execute(
                "UPDATE jobs SET owner = NULL, eta = NULL, finished = coalesce(finished, :now),"
                " revision = revision + (finished IS NULL),"
                " reason = CASE WHEN finished IS NULL THEN 'restarted' ELSE reason END,"
                " state = CASE WHEN finished IS NULL THEN 'failed' ELSE state END"
                " WHERE owner = :owner OR :owner IS NULL AND (finished IS NULL OR owner IS NOT NULL)"
                " RETURNING id",
                {"now": self._now(), "owner": owner},
            ).fetchall()
        return [row["id"] for row in rows]

    def _discard_inputs(self, job: str) -> None:
        for name in INPUTS:
            self.path(job, name).unlink(missing_ok=True)

    def _job(self, row: sqlite3.Row) -> Job:
        return Job.of(dict(row), busy=row["owner"] is not None, expiry=self._expiry)


class _Connection:
    """A connection that threads take in turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    def open(self, path: Path) -> None:
        # autocommit; other workers write for a millisecond at a time
        db = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # a power cut loses jobs anyway
            db.execute(SCHEMA)
            db.execute(CLOCK)
        except sqlite3.Error:
            db.close()
            raise
        self._opened = db

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    @contextmanager
    def held(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._opened is None:
                raise sqlite3.ProgrammingError("the store is not open")
            yield self._opened


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file a path is; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _boot() -> str:
    """The machine's present boot; its uptime begins with it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _write_private(path: Path, data: bytes) -> None:
    """A new file that only this user may read, whatever the umask."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
