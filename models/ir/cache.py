"""Converted and compiled networks in a folder.

A cached file begins with the SHA-256 of the rest, so a damaged one is made again, and appears in one step, so
several processes may make it at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.ir.convert import pack, unpack
from models.ir.precision import compile_network, instructions

logger = logging.getLogger(__name__)

DIGEST: Final = 32
"""Bytes of a SHA-256."""
UNUSED_DAYS: Final = 30
"""After so many days without a use a cached file is removed, when another is written."""


class Cache:
    """Converted and compiled networks in a folder.

    Args:
        folder: made when something is kept; without the right to write nothing is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def network(self, name: str, key: Sequence[str], make: Callable[[], Any]) -> Any:
        """An `openvino.Model`.

        Args:
            name: of the model, for the file's name.
            key: everything that the network depends on besides the version of OpenVINO.
            make: gives the network where it is not cached.
        """
        path = self._path(name, key, "ir")
        if (data := self._read(path)) is not None:
            return unpack(data[DIGEST:])
        network = make()
        self._write(path, pack(network, {"network": name}))
        return network

    def compiled(
        self, name: str, key: Sequence[str], precision: str, threads: int, network: Callable[[], Any]
    ) -> Any:
        """An `openvino.CompiledModel`; see `network` and `compile_network`.

        Args:
            name, key: as for `network`; the key with the shapes.
            precision, threads: as for `compile_network`.
            network: gives the network where what is compiled of it is not cached.
        """
        path = self._path(name, (*key, precision, *sorted(instructions())), "compiled")
        if (data := self._read(path)) is not None:
            try:
                # its constants are read where they are mapped, so processes share them
                made = compile_network(np.frombuffer(data, np.uint8, offset=DIGEST), precision, threads)
            except RuntimeError as error:  # of a version of OpenVINO that has the same number
                logger.warning("%s cannot be used and is made again: %s", path, error)
            else:
                data.madvise(mmap.MADV_DONTNEED)  # most of them have been packed for the processor
                return made
        made = compile_network(network(), precision, threads)
        self._write(path, made.export_model().getvalue())
        return made

    def mark(self, name: str, key: Sequence[str]) -> None:
        """Remembers that all networks of a model have been made, on this kind of processor."""
        self._write(self._path(name, (*key, *sorted(instructions())), "made"), b"")

    def marked(self, name: str, key: Sequence[str]) -> bool:
        """Whether `mark` was called with the same."""
        return self._read(self._path(name, (*key, *sorted(instructions())), "made")) is not None

    def _path(self, name: str, key: Sequence[str], suffix: str) -> Path:
        whole = "\0".join((importlib.metadata.version("openvino"), *key))
        return self._folder / f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}.{suffix}"

    def _read(self, path: Path) -> mmap.mmap | None:
        """What `_write` wrote, behind its digest; None: there is no such file, or it is damaged."""
        try:
            with path.open("rb") as file:
                data = mmap.mmap(
                    file.fileno(), 0, access=mmap.ACCESS_COPY
                )  # OpenVINO asks for the right to write
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # ValueError: it is empty
            data = None
        if data is None or hashlib.sha256(memoryview(data)[DIGEST:]).digest() != data[:DIGEST]:
            logger.warning("%s is damaged and is made again", path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used today
        return data

    def _write(self, path: Path, data: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                made = Path(scratch) / "network"
                made.write_bytes(hashlib.sha256(data).digest() + data)
                made.replace(path)
            self._prune()
        except OSError as error:  # a folder that may only be read, a full disk
            logger.warning("%s cannot be kept, each start makes it again: %s", path, error)

    def _prune(self) -> None:
        oldest = time.time() - UNUSED_DAYS * 86_400
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # another process prunes too
                if path.stat().st_mtime < oldest:
                    path.unlink()
