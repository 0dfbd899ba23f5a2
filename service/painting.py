"""One style job, in a process of its own: `python -m service.painting`, started by `service.painter`.

It reads one line of JSON on its standard input, says after every step how far it is in a line of JSON on its
standard output, and leaves its pictures in the job's folder. When its standard input closes, the worker that
started it is dead, and it ends at once. It writes nowhere else and holds no lock: nobody ever waits for a
process that only runs when nothing else wants to.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NO_ROOM = os.EX_IOERR
"""Exit status where the disk refused a picture."""


def stand_back() -> None:
    """The lowest priority that the system gives: only idle cores, or else a nice value of 19 (sched(7)).

    Where the kernel shares cores out among sessions first (autogroup), the session has a value too.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.nice(19)
    for _ in range(5):
        try:
            Path("/proc/self/autogroup").write_text("19")
        except BlockingIOError:  # the kernel takes ten such wishes a second
            time.sleep(0.1)
        except OSError:
            break  # no such thing here
        else:
            break


def paint(order: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Does a job.

    Args:
        order: `folder` (with content.png and style.png), `weights` and `sha256` of the loss network (an
            EfficientNet-Lite0), `threads`, and `options`, the fields of `OptimiseOptions`.
        tell: given each step and its losses; `preview` says that preview.png shows it.

    Raises:
        WeightsError: the network's file is not what it was.
    """
    import torch  # here: by now the process stands back

    from models.classification.efficientnet import load
    from models.errors import WeightsError
    from models.image import decode
    from models.style.losses import Perceptual
    from models.style.optimise import OptimiseOptions, Step, optimise
    from models.weights import sha256_of

    torch.set_num_threads(order["threads"])
    folder, weights = Path(order["folder"]), Path(order["weights"])
    if sha256_of(weights) != order["sha256"]:
        raise WeightsError(f"the file {weights} has changed since the service began")
    perceptual = Perceptual(load(weights).trunk)
    content, style = (decode((folder / name).read_bytes()) for name in ("content.png", "style.png"))

    def progress(step: Step) -> None:
        if step.preview is not None:
            _keep(step.preview, folder / "preview.png")
        losses = (step.content, step.style, step.variation)
        tell({"step": step.step, "losses": losses, "preview": step.preview is not None})

    done = optimise(content, style, perceptual, OptimiseOptions(**order["options"]), progress=progress)
    _keep(done.pixels, folder / "result.png")


def _keep(pixels: Any, path: Path) -> None:
    """Whole or not at all."""
    from models.image import encode

    fresh = path.with_suffix(".new")
    fresh.write_bytes(encode(pixels, "png"))
    fresh.replace(path)


def _end_with_the_worker() -> None:
    os.read(0, 1)  # nothing more ever comes
    os._exit(os.EX_TEMPFAIL)


def main() -> int:
    """Does the job that the standard input tells of."""
    stand_back()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed belongs to the log
    line = _line()
    if not line:
        return os.EX_TEMPFAIL
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    try:
        paint(json.loads(line), lambda said: print(json.dumps(said), file=out))
    except BrokenPipeError:
        return os.EX_TEMPFAIL
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return NO_ROOM
    return os.EX_OK


def _line() -> bytes:
    """One line of the standard input, and nothing of what follows."""
    read = b""
    while not read.endswith(b"\n"):
        more = os.read(0, 4096)
        if not more:
            return b""
        read += more
    return read


if __name__ == "__main__":
    sys.exit(main())
