"""What needs torch and is asked for seldom, in a process of its own, so that a worker stays light.

A worker whose networks OpenVINO runs never imports torch, which takes seconds and 0.7 GB. Grad-CAM, sliding
windows and sheets of filters need it: one child process of the worker (`python -m service.torch_process`)
builds the models that it is asked about, answers one question at a time, and ends when it has been idle for a
while, or when the worker has ended. The images are decoded, and their number and size bounded, in the worker.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from models.errors import ModelError, ParameterInvalid
from service.engine.executor import is_out_of_memory
from service.engine.offload import Call
from service.errors import DeadlineExceeded, OutOfMemory

if TYPE_CHECKING:
    from service.engine.engine import Engine
    from service.engine.runner import Runner

IDLE: Final = 600.0
"""Seconds without a question after which the process ends."""
HANG: Final = 120.0
"""Seconds after which a question that has no answer is taken to get none; the process is then replaced."""
POLL: Final = 0.1
"""Seconds between two looks at whether anyone still waits for the answer."""


Answer = tuple[type[Exception] | None, Any]
"""Nothing and the answer, or the class of an error and its arguments."""


class TorchProcess:
    """A worker's view of its process with torch; started at the first question. Its methods run in threads.

    Args:
        threads: that torch may use.
        catalogue: an operator's own, besides this project's.
        weights: folder of fetched files; None: the default one.
    """

    def __init__(self, threads: int, catalogue: Path | None = None, weights: Path | None = None) -> None:
        self._threads = threads
        self._paths = [str(path or "") for path in (catalogue, weights)]
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any]
        self._asked = 0
        self._answered = 0
        self._since = 0.0
        self._closed = False

    def ask(self, model: str, what: str, call: Call, *arguments: Any, **named: Any) -> Any:
        """The answer of `ANSWERS[what]` for a model of the catalogue.

        Raises:
            DeadlineExceeded: there was none in time; what has been begun ends with its next pass of the
                network.
            ModelError: what the question raised.
            OutOfMemory: it took more memory than there is.
            RuntimeError: the process ended, twice, or the question raised another error.
        """
        while not self._turn.acquire(timeout=POLL):
            call.check()
        try:
            for again in (True, False):
                try:
                    return self._ask((model, what, call.deadline, arguments, named), call)
                except (EOFError, OSError):  # it ended: it was idle, or the kernel needed its memory
                    self._end()
                    if not again:
                        raise RuntimeError("the process that explains answers has ended") from None
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ends the process."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
            process.wait()

    def _ask(self, question: Any, call: Call) -> Any:
        if self._process is None:
            self._start()
        while self._answered < self._asked:  # of questions whose askers have left
            self._receive(call)
        self._connection.send(question)
        self._asked, self._since = self._asked + 1, time.monotonic()
        kind, answer = self._receive(call)
        if kind is not None:
            raise kind(*answer)
        return answer

    def _receive(self, call: Call) -> Answer:
        call.check()
        while not self._connection.poll(POLL):
            call.check()
            if time.monotonic() > self._since + HANG:
                self._end()
                raise DeadlineExceeded("the process that explains answers hangs")
        answer: Answer = self._connection.recv()
        self._answered += 1
        return answer

    def _start(self) -> None:
        if self._closed:
            raise RuntimeError("the service is stopping")
        ours, theirs = Pipe()
        root = str(Path(__file__).resolve().parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "OMP_NUM_THREADS": str(self._threads),
            "CUDA_VISIBLE_DEVICES": "",  # the device belongs to the batches
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.torch_process", str(theirs.fileno()), *self._paths],
                stdin=subprocess.DEVNULL,
                stdout=2,  # it prints nothing but what is wrong
                env=environment,
                pass_fds=(theirs.fileno(),),
            )
        self._connection, self._asked, self._answered = ours, 0, 0

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._process = None


def _explained(what: str) -> Callable[..., Any]:
    def answer(pipeline: Any, call: Call, *arguments: Any, **named: Any) -> Any:
        return getattr(pipeline.explainer(call.check), what)(*arguments, **named)

    return answer


def _filters(pipeline: Any, call: Call, layer: str | None) -> Any:
    from models.classification.explain.filters import filter_sheet

    return filter_sheet(pipeline, layer)


def _layers(pipeline: Any, call: Call) -> Any:
    from models.classification.explain.layers import layers_of

    return layers_of(pipeline)


ANSWERS: Final[dict[str, Callable[..., Any]]] = {
    **{what: _explained(what) for what in ("heat_map", "windows", "saliency", "activations")},
    "filters": _filters,
    "layers": _layers,
}
"""Called with the pipeline, the call, and with what the question brings besides."""


def ask(engine: Engine, runner: Runner, what: str, call: Call, *arguments: Any, **named: Any) -> Any:
    """The answer of `ANSWERS[what]` for a served model: of the process with torch, where there is one,
    else of this one. To be called in a thread of `Engine.offload`.

    Raises:
        Exception: as `TorchProcess.ask`.
    """
    if engine.torch_process is not None:
        return engine.torch_process.ask(runner.card.name, what, call, *arguments, **named)
    return ANSWERS[what](runner.pipeline, call, *arguments, **named)


def refusal(error: Exception) -> Answer:
    """What is answered where a network failed: the same as where it fails in a batch."""
    if is_out_of_memory(error):
        return OutOfMemory, ("the explanation takes more memory than there is",)
    return RuntimeError, (f"{type(error).__name__}: {error}",)


def main() -> None:
    """Answers questions, until none comes."""
    with contextlib.suppress(OSError):  # no /proc
        Path("/proc/self/oom_score_adj").write_text("1000")  # rather this one than the worker
    from models import registry
    from models.weights import Store, standard_catalogue

    own, weights = (Path(path) if path else None for path in sys.argv[2:4])
    catalogue, store = standard_catalogue(own), Store(weights)
    pipelines: dict[str, Any] = {}
    with Connection(int(sys.argv[1])) as connection:
        while connection.poll(IDLE):
            try:
                model, what, deadline, arguments, named = connection.recv()
            except EOFError:  # the worker has ended
                return
            try:
                if model not in pipelines:
                    pipelines[model] = registry.build(model, catalogue, store)
                call = Call(deadline)  # the monotonic clock is the machine's
                answer: Answer = None, ANSWERS[what](pipelines[model], call, *arguments, **named)
            except ParameterInvalid as error:
                answer = ParameterInvalid, (error.parameter, str(error))
            except (ModelError, DeadlineExceeded) as error:
                answer = type(error), (str(error),)
            except Exception as error:  # as a batch's: the process lives on
                answer = refusal(error)
            connection.send(answer)


if __name__ == "__main__":
    main()
