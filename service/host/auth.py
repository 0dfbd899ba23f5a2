"""API keys, from the settings or from a file that may change while the service runs."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from service.errors import KeyBusy, Unauthenticated

logger = logging.getLogger(__name__)

LOOK_EVERY = 2.0
"""Seconds between two looks at the file."""


class Auth:
    """The API keys that are accepted; with none configured no request needs one.

    Args:
        keys: from the settings.
        file: a key a line; blank lines and lines that begin with ``#`` are ignored. It is read again
            when it has changed, so keys are rotated by writing it: first with both keys, later with the new
            one alone. A file that cannot be read leaves the keys as they were.
        clock: monotonic seconds.
        concurrency: most requests of one key at once; 0: no limit.

    Raises:
        OSError: the file cannot be read at start.
        ValueError: it holds no key.
    """

    def __init__(
        self,
        keys: Sequence[str] = (),
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        concurrency: int = 0,
    ) -> None:
        self._file = file
        self._clock = clock
        self._concurrency = concurrency
        self._under_way: dict[bytes, int] = {}
        self._own = tuple(_digest(key) for key in keys)
        self._from_file: tuple[bytes, ...] = ()
        self._seen: tuple[int, int] | None = None
        if file is not None:
            self._read(file)
        self._next_look = clock() + LOOK_EVERY

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._own) or self._file is not None

    def acquire(self, authorization: str | None, key: str | None) -> bytes | None:
        """Lets a request pass as `check` does; it counts for its key until `release` is given the result.

        Raises:
            Unauthenticated: it has no valid key.
            KeyBusy: the key has as many requests under way as it may.
        """
        digest = self.check(authorization, key)
        if digest is None or not self._concurrency:
            return None
        under_way = self._under_way.get(digest, 0)
        if under_way >= self._concurrency:
            raise KeyBusy(f"{under_way} requests of this API key are under way, which is the most at once")
        self._under_way[digest] = under_way + 1
        return digest

    def release(self, digest: bytes | None) -> None:
        """The request that got this from `acquire` has been answered."""
        if digest is not None:
            left = self._under_way.pop(digest) - 1
            if left:
                self._under_way[digest] = left

    def check(self, authorization: str | None, key: str | None) -> bytes | None:
        """Lets a request pass that has a key, as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.

        Returns the key's digest; None where no key is needed.

        Raises:
            Unauthenticated: it has no valid key.
        """
        if not self.required:
            return None
        self._look()
        if key is None and authorization is not None:
            scheme, _, credentials = authorization.partition(" ")
            key = credentials.strip() if scheme.lower() == "bearer" else None
        if key is None:
            raise Unauthenticated("an API key is needed: `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        given = _digest(key)
        fits = False
        for known in (*self._own, *self._from_file):  # all of them: constant time, whichever matches
            fits |= hmac.compare_digest(given, known)
        if not fits:
            raise Unauthenticated("the API key does not fit")
        return given

    def _look(self) -> None:
        if self._file is None or self._clock() < self._next_look:
            return
        self._next_look = self._clock() + LOOK_EVERY
        try:
            if self._version(self._file) != self._seen:
                self._read(self._file)
                logger.info("the API keys were read again: %d in the file", len(self._from_file))
        except (OSError, ValueError) as error:
            logger.warning("the file of API keys cannot be read, the old ones stay: %s", error)

    def _read(self, file: Path) -> None:
        version = self._version(file)
        lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
        keys = tuple(_digest(line) for line in lines if line and not line.startswith("#"))
        if not keys:
            raise ValueError(f"{file.name} holds no API key")
        self._from_file, self._seen = keys, version

    @staticmethod
    def _version(file: Path) -> tuple[int, int]:
        stat = file.stat()
        return stat.st_mtime_ns, stat.st_ino


def _digest(key: str) -> bytes:
    """Of equal length whatever the key's, so that a comparison takes the same time; and no key is kept."""
    return sha256(key.encode()).digest()
