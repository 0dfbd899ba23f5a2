"""The queue of waiting jobs: a client's share of it, which job is next, and the estimated wait.

Clients take turns (start-time fair queueing, Goyal, Vin and Cheng, SIGCOMM 1996, with every job one unit): a
job's turn is one more than that of the job begun last, or than that of its client's last waiting job; the
lowest turn is next, the first to come among equals. So a client's second job waits for the first one of every
other client, and none waits for more than one job of each client and turn.
"""

from __future__ import annotations

import heapq
import sqlite3

from service.errors import Overloaded
from service.jobs.backend import LONGEST
from service.jobs.job import State

RECENT = 8
"""Finished jobs that the speed of jobs is measured over."""


class Line:
    """The bounds of the queue; the queue itself is the table of jobs, which is an argument of every method.

    Args:
        running: how many jobs run at once.
        waiting: how many wait besides; of one client at most half of them, rounded up.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._running, self._waiting = running, waiting

    def check_room(self, db: sqlite3.Connection, client: str, now: float) -> None:
        """Whether one more job of a client may wait.

        Raises:
            Overloaded: too many run and wait, or too many of this client wait; with the estimated seconds
                until that changes.
        """
        running, queued, own = db.execute(
            "SELECT count(*) FILTER (WHERE state = 'running'), count(*) FILTER (WHERE state = 'queued'),"
            " count(*) FILTER (WHERE state = 'queued' AND client = ?) FROM jobs",
            (client,),
        ).fetchall()[0]
        if running + queued >= self._running + self._waiting:
            raise Overloaded(f"{running + queued} jobs run and wait already", self._seconds(db, None, now))
        begun_at_once = max(0, self._running - running)
        if own >= begun_at_once + (self._waiting + 1) // 2:
            seconds = self._seconds(db, client, now)
            raise Overloaded(f"{own} jobs of this client wait already, which is its share", seconds)

    def turn(self, db: sqlite3.Connection, client: str) -> int:
        """The turn of a new job of a client."""
        (last,) = db.execute(
            "SELECT max(turn) FROM jobs WHERE started IS NOT NULL OR state = 'queued' AND client = ?",
            (client,),
        ).fetchall()[0]
        return 1 + (last or 0)

    def _seconds(self, db: sqlite3.Connection, client: str | None, now: float) -> float:
        """Until a job ends, or with a client until the first waiting one of this client begins."""
        took, work = db.execute(
            "SELECT sum(finished - started), sum(work) FROM (SELECT * FROM jobs WHERE state = 'succeeded'"
            " AND finished > started ORDER BY finished DESC LIMIT ?)",
            (RECENT,),
        ).fetchall()[0]
        pace = took / work if work else 1.0  # seconds for a second of a free core
        rows = db.execute(
            "SELECT state, client, eta, work, started FROM jobs WHERE state IN ('queued', 'running')"
            " ORDER BY turn, number"
        ).fetchall()
        ends = [
            max(1.0, row["started"] + pace * row["work"] - now) if row["eta"] is None else row["eta"]
            for row in rows
            if row["state"] == State.RUNNING
        ]
        ends += [0.0] * (self._running - len(ends))
        heapq.heapify(ends)
        for row in rows:
            if client is None or (row["client"] == client and row["state"] == State.QUEUED):
                break
            if row["state"] == State.QUEUED:
                heapq.heapreplace(ends, ends[0] + pace * row["work"])
        return float(min(LONGEST, max(1.0, ends[0])))
