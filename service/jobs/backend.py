"""What keeps and runs jobs: on this machine (`service.jobs.local`) or beyond it (`service.jobs.queued`)."""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

from service.jobs.job import Job, NewJob

LONGEST: Final = 3600.0
"""Longest `retry_after` of a refused client, seconds."""


ImageName: TypeAlias = Literal["preview", "result"]


class BackendError(Exception):
    """What keeps the jobs cannot be used at the moment."""


class Backend(Protocol):
    """The operations on jobs. They block for a moment and may be called from any thread.

    All but `start` and `stop` raise BackendError while what keeps the jobs fails.
    """

    def start(self) -> None:
        """Begins the background work; a store that fails is tried again, and does not fail this."""

    def stop(self) -> None:
        """Ends the background work, and waits for it."""

    def check_room(self, client: str) -> None:
        """
        Raises:
            Overloaded: too many jobs wait, or too many of this client.
        """

    def submit(self, new: NewJob) -> Job:
        """A job, which waits.

        Raises:
            Overloaded: as `check_room`.
        """

    def get(self, job: str) -> Job:
        """A job as it stands.

        Raises:
            JobUnknown: there is none of that id, or it has expired.
        """

    def cancel(self, job: str) -> Job:
        """Ends a job; what works on it is asked to stop, and has stopped when the job is no longer `busy`.

        Raises:
            JobUnknown: there is none of that id.
            JobFinished: it has ended already.
        """

    def image(self, job: str, name: ImageName) -> bytes:
        """An image of a job, a PNG: the latest (`preview`), or what it made (`result`).

        Raises:
            JobUnknown: it has expired, or there is none.
        """
