"""Faults of processes: signals, hangs, ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence

import psutil  # type: ignore[import-untyped]

from loadtests.faults.beside import Fault, finish
from loadtests.faults.case import Case, Row
from loadtests.faults.clients import Clients, asked, drip
from loadtests.faults.hold import busiest, held
from loadtests.faults.site import Site
from loadtests.server import status

ALL = 7
"""Clients: each has one request under way at most."""


def killed(workers: int) -> Case:
    """A worker is killed (SIGKILL) under load."""

    def case(row: Row) -> None:
        with Site(workers=workers) as site:
            with asked(row, site) as clients:
                os.kill(site.worker_processes()[0].pid, signal.SIGKILL)
                time.sleep(0.1)
                row.healthy = site.until_ready() + 0.1
                clients.until("ok", 30)
            row.expect("was ended by signal 9" in site.said(), "the log does not tell")
            finish(row, site)
        row.judge(reset=ALL, hung=0 if workers > 1 else 3 * ALL)  # of one worker, no other answers

    return case


def stopped(row: Row, site: Site, clients: Clients) -> None:
    """A worker is stopped (SIGSTOP): it is continued, and answers what it has."""
    began = time.monotonic()
    victim = site.worker_processes()[0]
    victim.suspend()
    for is_so in (True, False):  # it is some time until the signal has stopped all of its threads
        while (victim.status() == psutil.STATUS_STOPPED) != is_so and time.monotonic() < began + 60:
            time.sleep(0.01)
    site.until_ready()
    row.healthy = time.monotonic() - began
    clients.until("ok", 30)
    row.expect(victim.is_running(), "it was killed")


def hangs(what: Callable[[psutil.Process], Sequence[int]], said: str) -> Case:
    """Threads of one of two workers hang; it is ended, and another one comes."""

    def case(row: Row) -> None:
        with Site(workers=2) as site:
            with asked(row, site) as clients:
                began = time.monotonic()
                victim = site.worker_processes()[0]
                with held(what(victim)):
                    while victim.is_running() and time.monotonic() < began + 60:
                        time.sleep(0.1)
                site.until_ready()
                row.healthy = time.monotonic() - began
                clients.until("ok", 30)
            row.expect(said in site.said(), "the log does not tell")
            finish(row, site)
        row.judge(reset=ALL)

    return case


def model_hangs(row: Row) -> None:
    """The only model's thread hangs until it is no longer ready, and goes on."""
    with Site() as site:
        with asked(row, site) as clients:
            with held([busiest(site.worker_processes()[0])]):
                began = time.monotonic()
                while status(site.address, "/readyz") == 200 and time.monotonic() < began + 30:
                    time.sleep(0.1)
                row.note = f"not ready after {time.monotonic() - began:.0f} s"
                row.expect(time.monotonic() < began + 15, "it is ready all the while")
            row.healthy = site.until_ready()
            clients.until("ok", 30)
        finish(row, site)
    row.judge(late=4 * ALL)


def stopped_at_the_end(row: Row) -> None:
    """One of two workers is stopped, then SIGTERM."""
    with Site(workers=2) as site:
        with asked(row, site):
            site.worker_processes()[0].suspend()
            site.signal(signal.SIGTERM)
            code, row.ended = site.end()
        row.expect(code == 0, f"status {code}")
        row.expect(row.ended < 18, "it ended too late")
        row.left = site.left_behind()
    row.judge()


def asked_to_end(*numbers: signal.Signals, slow: bool = False) -> Case:
    """SIGTERM, or another, once or twice, under load."""

    def case(row: Row) -> None:
        with Site(workers=2) as site:
            with asked(row, site):
                dripping = drip(site, 30.0) if slow else contextlib.nullcontext()
                with dripping:
                    time.sleep(0.3)
                    for number in numbers:
                        site.signal(number)
                        time.sleep(0.3)
                    code, row.ended = site.end()
                time.sleep(0.3)
            row.expect(code == 0, f"status {code}")
            row.left = site.left_behind()
        row.judge()

    return case


def asked_at_the_start(row: Row) -> None:
    """SIGTERM while the workers load their models."""
    with Site(workers=2, models="efficientnet-lite0,yolo-person") as site:
        while "Running startup hook" not in site.said():
            time.sleep(0.1)
        time.sleep(0.5)
        site.signal(signal.SIGTERM)
        code, row.ended = site.end()
        row.expect(code == 0, f"status {code}")
        row.expect(row.ended < 5, "it ended too late")
        row.left = site.left_behind()
        row.expect(not row.left, f"left behind: {', '.join(row.left)}")


def hung_up(row: Row, site: Site, clients: Clients) -> None:
    """SIGHUP to the server and its workers."""
    os.killpg(site.process.pid, signal.SIGHUP)
    time.sleep(1.0)
    row.healthy = site.until_ready()
    clients.until("ok", 60)


def orphaned(row: Row) -> None:
    """The supervisor alone is killed (SIGKILL)."""
    with Site(workers=2) as site:
        with asked(row, site):
            site.signal(signal.SIGKILL)
            began = time.monotonic()
            while site.session() and time.monotonic() < began + 30:
                time.sleep(0.1)
            row.ended = time.monotonic() - began
        site.process.wait()
        with Site(folder=site.folder, port=site.port, grpc_port=site.grpc_port) as again:
            row.healthy = again.until_ready()
            finish(Row(""), again)
        row.left = site.left_behind()  # the next start takes away what this one left
    row.judge()


CASES: dict[str, Case] = {
    "SIGKILL of one of two workers": killed(2),
    "SIGKILL of the only worker": killed(1),
    "a worker's event loop hangs": hangs(lambda worker: [worker.pid], "event loop has not turned"),
    "a worker hangs as a whole": hangs(
        lambda worker: [thread.id for thread in worker.threads()], "does not answer: it is killed"
    ),
    "a model's call hangs": model_hangs,
    "SIGSTOP of one of two workers, then SIGTERM": stopped_at_the_end,
    "SIGTERM": asked_to_end(signal.SIGTERM),
    "SIGTERM, a request whose body drips": asked_to_end(signal.SIGTERM, slow=True),
    "SIGTERM twice": asked_to_end(signal.SIGTERM, signal.SIGTERM),
    "SIGINT": asked_to_end(signal.SIGINT),
    "SIGINT twice": asked_to_end(signal.SIGINT, signal.SIGINT),
    "SIGTERM during the start": asked_at_the_start,
    "SIGKILL of the supervisor": orphaned,
}

BESIDE: dict[str, Fault] = {"SIGSTOP of one of two workers": stopped, "SIGHUP": hung_up}
