"""Faults that a server stands while its clients go on: each alone, or several on one server."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping

from loadtests.faults.case import Case, Row
from loadtests.faults.clients import Clients, asked, drip
from loadtests.faults.site import Site, pipe

Fault = Callable[[Row, Site, Clients], None]
"""What is done to a server of two workers that clients ask meanwhile."""


def finish(row: Row, site: Site) -> None:
    """Ends a server that is well."""
    site.signal(signal.SIGTERM)
    code, row.ended = site.end()
    row.expect(code == 0, f"status {code}")
    row.left = site.left_behind()


def beside(faults: Mapping[str, Fault], *, slow: bool = False) -> Case:
    """One fault after the other on one server; then SIGTERM, while the clients go on.

    No client may lose a request, or be refused before that.

    Args:
        slow: at the end there is a request whose body drips.
    """

    def case(row: Row) -> None:
        write, reader = pipe()
        with reader, Site(workers=2, stdout=write, access_log=True) as site:
            os.close(write)
            site.reader = reader
            with asked(row, site) as clients:
                for name, fault in faults.items():
                    part = Row(name)
                    fault(part, site, clients)
                    row.failures += part.failures
                    row.healthy = part.healthy if part.healthy is not None else row.healthy
                row.counts = clients.counts()
                row.judge(refused=False)
                with drip(site, 30.0) if slow else contextlib.nullcontext():
                    time.sleep(0.3)
                    site.signal(signal.SIGTERM)
                    code, row.ended = site.end()
            row.expect(code == 0, f"status {code}")
            row.left = site.left_behind()
        row.judge()

    return case
