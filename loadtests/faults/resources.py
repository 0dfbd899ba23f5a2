"""Faults of what is around a server: its output, its files, its clients, its ports, its disk."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shutil
import socket
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator

import psutil  # type: ignore[import-untyped]

from loadtests.faults.beside import Fault, finish
from loadtests.faults.case import Case, Row, digit
from loadtests.faults.clients import Clients, asked, drip
from loadtests.faults.site import Site, pipe
from loadtests.hostile.documents import form, part
from loadtests.server import status

JOB = "/v1/stylize/jobs?size=64&steps=400"
LONGEST = 40.0  # seconds that a change of a job is waited for


def reader_stalls(row: Row) -> None:
    """What reads the output stops reading, with an access log; then SIGTERM."""
    write, reader = pipe()
    with reader, Site(stdout=write, access_log=True) as site:
        os.close(write)
        with asked(row, site, kept=6) as clients:
            clients.until("ok", 6000, 40.0)  # many times what the pipe and the queue hold
            probes = [status(site.address, "/livez") for _ in range(8)]
        row.expect(set(probes) == {200}, f"probes {probes}")
        dropped = site.metric("lynceus_log_dropped_total")
        row.note = f"{dropped:.0f} lines dropped and counted"
        finish(row, site)
    row.judge(refused=False)


def reader_closes(row: Row, site: Site, clients: Clients) -> None:
    """What reads the output closes it, with an access log."""
    site.reader.close()
    clients.until("ok", 200)


def no_files(row: Row) -> None:
    """At most 96 open files, 200 silent connections."""
    limit = (96, 96)
    with Site(begin=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)) as site:
        site.until_ready()
        with _silent(site, 200):
            time.sleep(2.0)
        began = time.monotonic()
        site.until_ready()
        row.healthy = time.monotonic() - began
        with asked(row, site):
            pass
        finish(row, site)
    row.judge()


def idle(row: Row, site: Site, clients: Clients) -> None:
    """2,000 idle connections beside the clients."""
    with _silent(site, 2000):
        clients.until("ok", 200)


def dripping(row: Row, site: Site, clients: Clients) -> None:
    """200 bodies at ten bytes a second beside the clients."""
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(drip(site, 8.0))
        clients.until("ok", 200)


def slow_headers(row: Row, site: Site, clients: Clients) -> None:
    """200 requests whose headers come at ten bytes a second beside the clients."""
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(drip(site, 8.0, b"POST /v1/classify HTTP/1.1\r\nx: "))
        clients.until("ok", 200)


def random_bytes(row: Row, site: Site, clients: Clients) -> None:
    """100 connections to each port that send what is neither HTTP nor HTTP/2."""
    for port in (site.port, site.grpc_port) * 100:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as other:
            other.sendall(os.urandom(4096))
    clients.until("ok", 200)


def jobs(damage: Callable[[Site, str], Iterator[None]], *, lost: bool) -> Case:
    """Damages what jobs need while one runs; inference goes on, and jobs do again."""

    def case(row: Row) -> None:
        with Site(models="lenet5,efficientnet-lite0") as site:
            site.until_ready()
            job = _submitted(site)
            _until(lambda: _job(site, job)["state"] == "running")
            with asked(row, site, first=30) as clients:
                for _ in damage(site, job):
                    began = time.monotonic()
                    scrape = status(site.address, "/metrics")
                    row.expect(scrape == 200 and time.monotonic() < began + 3, f"/metrics: {scrape}")
                    clients.until("ok", 30)
                began = time.monotonic()
                _until(lambda: _ask(site, "POST", JOB)[0] == 202)
                row.healthy = time.monotonic() - began
                if lost:
                    _until(lambda: _job(site, job).get("state", "failed") == "failed")
                    row.note = f"the job: {_job(site, job).get('reason') or 'unknown'}"
            finish(row, site)
        row.judge(refused=False)

    return case


def kill_job(site: Site, job: str) -> Iterator[None]:
    """Ends the job's process."""
    (process,) = [one for one in site.session() if "service.jobs.process" in one.cmdline()]
    process.kill()
    yield


def remove_state(site: Site, job: str) -> Iterator[None]:
    """Removes the state folder."""
    shutil.rmtree(site.state)
    yield


def lock_store(site: Site, job: str) -> Iterator[None]:
    """Holds the store's write lock: who reads goes on, who writes is refused in time."""
    (file,) = site.state.glob("jobs-*.sqlite")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        if _ask(site, "GET", f"/v1/jobs/{job}")[0] != 200 or time.monotonic() > began + 2:
            raise AssertionError("a poll waits for the lock")
        if _ask(site, "POST", JOB)[0] != 503 or time.monotonic() > began + 9:
            raise AssertionError("a submission waits for the lock")
        yield
        other.execute("ROLLBACK")


def fill_store(site: Site, job: str) -> Iterator[None]:
    """Replaces the store's file by random bytes."""
    (file,) = site.state.glob("jobs-*.sqlite")
    file.unlink()
    file.write_bytes(os.urandom(4096))
    yield
    file.unlink()


def tree_killed(row: Row) -> None:
    """SIGKILL of all processes while a job runs and one waits; a new start."""
    with Site(models="lenet5,efficientnet-lite0") as site:
        site.until_ready()
        running, waiting = _submitted(site), _submitted(site)
        _until(lambda: _job(site, running)["state"] == "running")
        for process in site.session():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        site.process.wait()
        with Site(folder=site.folder, models="lenet5,efficientnet-lite0") as again:
            row.healthy = again.until_ready()
            for job in (running, waiting):
                found = _job(again, job)
                row.expect(found.get("reason") == "restarted", f"a job is {found.get('state')}")
            with asked(row, again, first=30):
                pass
            finish(row, again)
    row.judge()


def _silent(site: Site, number: int) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for _ in range(number):
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=5))
    return stack


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"it did not happen in {LONGEST:g} s")
        time.sleep(0.1)


def _ask(site: Site, method: str, path: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(site.address, timeout=15)
    with contextlib.closing(connection):
        body, headers = None, {}
        if method == "POST":
            body = form(part(digit(), "content"), part(digit(), "style"))
            headers = {"content-type": "multipart/form-data; boundary=b"}
        connection.request(method, urllib.parse.quote(path, safe="/?=&"), body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def _submitted(site: Site) -> str:
    code, job = _ask(site, "POST", JOB)
    if code != 202:
        raise AssertionError(f"a job is answered {code}: {job}")
    return str(job["id"])


def _job(site: Site, job: str) -> dict[str, object]:
    return _ask(site, "GET", f"/v1/jobs/{job}")[1]


CASES: dict[str, Case] = {
    "the output's reader stalls, access log on": reader_stalls,
    "96 files, 200 silent connections": no_files,
    "SIGKILL of a job's process": jobs(kill_job, lost=True),
    "the state folder is removed": jobs(remove_state, lost=True),
    "the job store's write lock is held": jobs(lock_store, lost=False),
    "random bytes in place of the job store": jobs(fill_store, lost=True),
    "SIGKILL of all, with jobs; a new start": tree_killed,
}

BESIDE: dict[str, Fault] = {
    "2,000 idle connections": idle,
    "200 bodies that drip": dripping,
    "200 headers that drip": slow_headers,
    "random bytes on both ports": random_bytes,
    "the output's reader closes, access log on": reader_closes,
}
