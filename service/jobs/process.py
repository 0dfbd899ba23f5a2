"""One job, in a process of its own (`python -m service.jobs.process`), started by the scheduler.

It reads one line of JSON on its standard input, writes its progress after every step as a line of JSON on its
standard output, and leaves its images in the job's folder. When its standard input closes, the worker that
started it is dead, and it ends at once. It writes nowhere else and holds no lock, so no process
waits for one of low priority.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from service.jobs.job import JobKind

NO_ROOM = os.EX_IOERR
"""Exit status where the disk refused an image."""

NICE = 10
"""The nice value of a job's process."""


def lower_priority() -> None:
    """Lowers the priority of this process, and makes it the OOM killer's first choice.

    A tenth of the weight of a worker's threads (sched(7)): beside busy workers a job gets
    about a tenth of a core (SCHED_IDLE: a three-hundredth; nice 19: a seventieth), and a thread that
    wakes for a request still takes the core at once. Where the kernel shares cores out among sessions
    first (autogroup), the session has a value too.
    """
    os.nice(NICE)
    end_first()
    for _ in range(5):
        try:
            Path("/proc/self/autogroup").write_text(str(NICE))
        except BlockingIOError:  # the kernel takes ten of these a second
            time.sleep(0.1)
        except OSError:
            break  # no such thing here
        else:
            break


def end_first() -> None:
    """Makes this process the OOM killer's first choice."""
    with contextlib.suppress(OSError):  # no /proc
        Path("/proc/self/oom_score_adj").write_text("1000")  # proc_pid_oom_score_adj(5); needs no privilege


Tell = Callable[[dict[str, Any]], None]
"""Given each step, as `step`, and its `losses` by name; `preview` says that preview.png shows it."""


def run(order: dict[str, Any], tell: Tell) -> None:
    """Runs a job, as `service.jobs.job.Files.order` describes it."""
    import torch  # here: the priority is low by now

    torch.set_num_threads(order["threads"])
    WORK[JobKind(order["kind"])](order, tell)


def paint(order: dict[str, Any], tell: Tell) -> None:
    """Runs a style job: content.png and style.png of the folder become result.png.

    Args:
        order: its `options` are the fields of `OptimiseOptions`, its `network` is the loss network (an
            EfficientNet-Lite0) and the file's digest.
        tell: of each step.

    Raises:
        WeightsError: the network's file has changed.
    """
    from models.classification.efficientnet import load
    from models.errors import WeightsError
    from models.image import decode
    from models.style.losses import Perceptual
    from models.style.optimise import PARTS, Step, optimise
    from models.style.result import OptimiseOptions
    from models.weights import sha256_of

    folder, (weights, sha256) = Path(order["folder"]), order["network"]
    weights = Path(weights)
    if sha256_of(weights) != sha256:
        raise WeightsError(f"the file {weights} has changed since the service began")
    perceptual = Perceptual(load(weights).backbone)
    content, style = (decode((folder / name).read_bytes()) for name in ("content.png", "style.png"))

    def progress(step: Step) -> None:
        _tell(tell, step, {part: getattr(step, part) for part in PARTS}, folder)

    done = optimise(content, style, perceptual, OptimiseOptions.of(order["options"]), progress=progress)
    _keep(done.pixels, folder / "result.png")


def visualize(order: dict[str, Any], tell: Tell) -> None:
    """Runs a visualisation: result.png of the folder is what a channel or a label answers to.

    Args:
        order: its `options` are the fields of `VisualizeOptions`, and `model` and `sha256` of the classifier;
            `catalogue` and `weights` say where that is.
        tell: of each step.

    Raises:
        WeightsError: the network's file is missing, or has changed.
        ParameterInvalid: it has no such layer, channel or label.
    """
    from models import registry
    from models.classification.explain.result import VisualizeOptions
    from models.classification.explain.visualize import VisualizeStep
    from models.classification.explain.visualize import visualize as made
    from models.errors import WeightsError
    from models.weights import Store, standard_catalogue

    folder, options = Path(order["folder"]), dict(order["options"])
    name, sha256 = options.pop("model"), options.pop("sha256")
    catalogue, weights = (Path(order[one]) if order[one] else None for one in ("catalogue", "weights"))
    pipeline: Any = registry.build(name, standard_catalogue(catalogue), Store(weights))
    if pipeline.card.sha256 != sha256:
        raise WeightsError(f"the weights of {name} are not those of the service that took the job")

    def progress(step: VisualizeStep) -> None:
        _tell(tell, step, {"activation": step.activation}, folder)

    _keep(made(pipeline, VisualizeOptions.of(options), progress=progress), folder / "result.png")


WORK: Final[dict[JobKind, Callable[[dict[str, Any], Tell], None]]] = {
    JobKind.STYLIZE: paint,
    JobKind.VISUALIZE: visualize,
}
"""What runs a job of each kind."""


def _tell(tell: Tell, step: Any, losses: dict[str, float], folder: Path) -> None:
    """Tells a step, once its preview is kept, if it has one."""
    if step.preview is not None:
        _keep(step.preview, folder / "preview.png")
    tell({"step": step.step, "losses": losses, "preview": step.preview is not None})


def _keep(pixels: Any, path: Path) -> None:
    """Atomically."""
    from models.image import encode

    fresh = path.with_suffix(".new")
    fresh.write_bytes(encode(pixels, "png"))
    fresh.replace(path)


def _end_with_the_worker() -> None:
    os.read(0, 1)  # the end of the input
    os._exit(os.EX_TEMPFAIL)


def main() -> int:
    """Runs the job that the standard input describes."""
    os.umask(0o077)  # images are private to the user
    lower_priority()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # other output goes to the log
    line = io.FileIO(0, closefd=False).readline()  # unbuffered: what follows is the end
    if not line.endswith(b"\n"):
        return os.EX_TEMPFAIL
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    try:
        run(json.loads(line), lambda said: print(json.dumps(said), file=out))
    except BrokenPipeError:
        return os.EX_TEMPFAIL
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return NO_ROOM
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
