"""Faults of processes: signals, hangs, ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from loadtests.faults.case import Case, Row, digit
from loadtests.faults.clients import Clients, drip
from loadtests.faults.site import Site

ALL = 7
"""Clients: each has one request under way at most."""


def _finish(row: Row, site: Site) -> None:
    """Ends a server that is well."""
    site.signal(signal.SIGTERM)
    code, row.ended = site.end()
    row.expect(code == 0, f"status {code}")
    row.left = site.left_behind()


def killed(workers: int) -> Case:
    """A worker is killed (SIGKILL) under load."""

    def case(row: Row) -> None:
        with Site(workers=workers) as site:
            site.until_ready()
            with Clients(site, digit()).asking() as clients:
                clients.until("ok", 60)
                os.kill(site.worker_processes()[0].pid, signal.SIGKILL)
                time.sleep(0.1)
                row.healthy = site.until_ready() + 0.1
                clients.until("ok", 30)
            row.counts = clients.counts()
            row.expect("was ended by signal 9" in site.said(), "the log does not tell")
            _finish(row, site)
        row.judge(reset=ALL, hung=0 if workers > 1 else 3 * ALL)  # of one worker, no other answers

    return case


def stopped(row: Row) -> None:
    """One of two workers is stopped (SIGSTOP), for good."""
    with Site(workers=2) as site:
        site.until_ready()
        with Clients(site, digit()).asking() as clients:
            clients.until("ok", 60)
            began = time.monotonic()
            victim = site.worker_processes()[0]
            victim.suspend()
            while victim.is_running() and time.monotonic() < began + 60:
                time.sleep(0.1)
            site.until_ready()
            row.healthy = time.monotonic() - began
            clients.until("ok", 30)
        row.counts = clients.counts()
        row.expect("does not answer: it is killed" in site.said(), "the log does not tell")
        _finish(row, site)
    row.judge(reset=ALL, hung=3 * ALL)  # only those that were connected to it, until it is killed


def stopped_at_the_end(row: Row) -> None:
    """One of two workers is stopped, then SIGTERM."""
    with Site(workers=2) as site:
        site.until_ready()
        with Clients(site, digit()).asking() as clients:
            clients.until("ok", 60)
            site.worker_processes()[0].suspend()
            site.signal(signal.SIGTERM)
            code, row.ended = site.end()
        row.counts = clients.counts()
        row.expect(code == 0, f"status {code}")
        row.expect(row.ended < 18, "it ended too late")
        row.left = site.left_behind()
    row.judge(reset=ALL, hung=ALL)


def asked_to_end(*numbers: signal.Signals, slow: bool = False) -> Case:
    """SIGTERM, or another, once or twice, under load."""

    def case(row: Row) -> None:
        with Site(workers=2) as site:
            site.until_ready()
            with Clients(site, digit()).asking() as clients:
                clients.until("ok", 60)
                dripping = drip(site, 30.0) if slow else contextlib.nullcontext()
                with dripping:
                    time.sleep(0.3)
                    for number in numbers:
                        site.signal(number)
                        time.sleep(0.3)
                    code, row.ended = site.end()
                time.sleep(0.3)
            row.counts = clients.counts()
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


def hung_up(row: Row) -> None:
    """SIGHUP to the server and its workers."""
    with Site(workers=2) as site:
        site.until_ready()
        with Clients(site, digit()).asking() as clients:
            clients.until("ok", 60)
            os.killpg(site.process.pid, signal.SIGHUP)
            time.sleep(1.0)
            row.healthy = site.until_ready()
            clients.until("ok", 60)
        row.counts = clients.counts()
        _finish(row, site)
    row.judge(refused=False)


def orphaned(row: Row) -> None:
    """The supervisor alone is killed (SIGKILL)."""
    with Site(workers=2) as site:
        site.until_ready()
        with Clients(site, digit()).asking() as clients:
            clients.until("ok", 60)
            site.signal(signal.SIGKILL)
            began = time.monotonic()
            while site.session() and time.monotonic() < began + 30:
                time.sleep(0.1)
            row.ended = time.monotonic() - began
        row.counts = clients.counts()
        site.process.wait()
        with Site(folder=site.folder, port=site.port, grpc_port=site.grpc_port) as again:
            row.healthy = again.until_ready()
            _finish(Row(""), again)
        row.left = site.left_behind()  # the next start takes away what this one left
    row.judge()


CASES: dict[str, Case] = {
    "SIGKILL of one of two workers": killed(2),
    "SIGKILL of the only worker": killed(1),
    "SIGSTOP of one of two workers": stopped,
    "SIGSTOP of one of two workers, then SIGTERM": stopped_at_the_end,
    "SIGTERM": asked_to_end(signal.SIGTERM),
    "SIGTERM, a request whose body drips": asked_to_end(signal.SIGTERM, slow=True),
    "SIGTERM twice": asked_to_end(signal.SIGTERM, signal.SIGTERM),
    "SIGINT twice": asked_to_end(signal.SIGINT, signal.SIGINT),
    "SIGTERM during the start": asked_at_the_start,
    "SIGHUP": hung_up,
    "SIGKILL of the supervisor": orphaned,
}
