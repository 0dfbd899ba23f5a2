"""Workers that are forks of the supervisor, which has imported what they need.

To import it takes a process 1.7 s of CPU time and 90 MB. A fork has it at once and shares the memory, also
one that takes the place of a worker that died. BentoML's command line for a worker stays what it is: here
its function is called, where `circus` would start an interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import circus.process
import psutil  # type: ignore[import-untyped]
from bentoml._internal import log as log_of_bento
from prometheus_client import values as prometheus_values

WORKER: Final = "_bentoml_impl.worker.service"
"""The module of a worker of BentoML's, and what its command line begins with after ``-m``."""
NAME: Final = "worker-{}"
"""Of a worker's process, as ``ps -o comm`` shows it, since its command line is the supervisor's."""


class Forked(circus.process.Process):
    """A worker that is forked; another process, and one that another thread starts, is started as ever.

    No library may have begun threads that a fork needs, or have opened a GPU: neither survives it.
    """

    def spawn(self) -> None:
        """
        Raises:
            OSError: the system has no room for a process; circus tries again.
        """
        module = list(self.args or ())[:2] == ["-m", WORKER]
        if not module or threading.current_thread() is not threading.main_thread():
            super().spawn()
            return
        self.started = time.time()
        sockets = self._get_sockets_fds() or {}
        arguments = self.format_args(sockets_fds=sockets)[3:]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if not pid:
                self._work(arguments, sockets.values(), blocked)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._worker = _Child(pid)

    def _work(self, arguments: Sequence[str], kept: Any, blocked: Any) -> NoReturn:
        """What the child does: as a new interpreter would begin and end, with BentoML's worker between."""
        status = 1
        try:
            gc.freeze()  # what the supervisor has is not looked at, which would copy it, and never closed
            atexit._clear()
            _handle_no_signals()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.setsid()
            _close_all_but({0, 1, 2, *kept})
            if self.close_child_stdin:
                nothing = os.open(os.devnull, os.O_RDONLY)
                os.dup2(nothing, 0)
                os.close(nothing)
            os.environ.clear()
            os.environ.update(self.env)
            os.chdir(self.working_dir)
            with contextlib.suppress(OSError):
                Path("/proc/self/comm").write_text(NAME.format(self.wid))
            _log_anew()
            # chosen when it was imported, by a variable that only a worker's environment has
            prometheus_values.ValueClass = prometheus_values.get_value_class()
            from _bentoml_impl.worker.service import main

            main(list(arguments), prog_name=WORKER)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                threading._shutdown()  # type: ignore[attr-defined]
            with contextlib.suppress(BaseException):
                atexit._run_exitfuncs()
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


class _Child(psutil.Process):
    """A child by `os.fork`, with what circus wants of `subprocess.Popen` besides."""

    stdout = stderr = None
    returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or a signal's number with a minus sign; None: it lives."""
        with contextlib.suppress(psutil.TimeoutExpired):
            self.returncode = self.wait(0) or 0  # None: circus has waited for it
        return self.returncode


def _handle_no_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _close_all_but(kept: set[int]) -> None:
    """As at the start of a program: the supervisor's files and sockets are no worker's."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))


def _log_anew() -> None:
    """To the standard streams: the supervisor's threads, which write to them, are not here."""
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    log_of_bento.SERVER_LOGGING_CONFIG["disable_existing_loggers"] = False
    log_of_bento._component_name.cache_clear()
