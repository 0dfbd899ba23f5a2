"""One style job, in a process of its own (`python -m service.jobs.process`), started by the scheduler.

It reads one line of JSON on its standard input, says after every step how far it is in a line of JSON on its
standard output, and leaves its pictures in the job's folder. When its standard input closes, the worker that
started it is dead, and it ends at once. It writes nowhere else and holds no lock: nobody ever waits for a
process that runs when little else does.
"""

from __future__ import annotations

import contextlib
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

NICE = 10
"""The nice value of a job's process."""


def lower_priority() -> None:
    """Gives way to requests: a low priority, and the first to be ended where memory runs out.

    A tenth of the weight of a worker's threads (sched(7)): beside workers that never rest a job gets about
    a tenth of one core (SCHED_IDLE: a three-hundredth; a nice value of 19: a seventieth), and a thread that
    wakes for a request still takes the core at once. Where the kernel shares cores out among sessions
    first (autogroup), the session has a value too.
    """
    os.nice(NICE)
    with contextlib.suppress(OSError):  # no /proc
        Path("/proc/self/oom_score_adj").write_text("1000")  # proc_pid_oom_score_adj(5); needs no privilege
    for _ in range(5):
        try:
            Path("/proc/self/autogroup").write_text(str(NICE))
        except BlockingIOError:  # the kernel takes ten of these a second
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
    perceptual = Perceptual(load(weights).backbone)
    content, style = (decode((folder / name).read_bytes()) for name in ("content.png", "style.png"))

    def progress(step: Step) -> None:
        if step.preview is not None:
            _keep(step.preview, folder / "preview.png")
        losses = (step.content, step.style, step.variation)
        tell({"step": step.step, "losses": losses, "preview": step.preview is not None})

    done = optimise(content, style, perceptual, OptimiseOptions.of(order["options"]), progress=progress)
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
    os.umask(0o077)  # images are their owner's
    lower_priority()
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
