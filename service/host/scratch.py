"""A folder for temporary files of one server: BentoML and its workers leave some where they are killed.

It is removed at the server's end; that of a server that was killed, at the next one's start.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "lynceus-server-"


def use_own() -> Path:
    """Makes the folder, and the place of temporary files of this process and of those that it starts.

    Raises:
        OSError: there is no room; temporary files are where they were.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if not _in_use(path):
            shutil.rmtree(path, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # kept open: the lock ends with the process
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _in_use(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), (folder / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
    return True  # one that has just been made
