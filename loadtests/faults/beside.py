"""Faults that a server stands while its clients go on: each alone, or several on one server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

from loadtests.faults.case import Case, Row, digit
from loadtests.faults.clients import Clients
from loadtests.faults.site import Site, pipe

Fault = Callable[[Row, Site, Clients], None]
"""What is done to a server of two workers that clients ask meanwhile."""


def beside(faults: Mapping[str, Fault]) -> Case:
    """One fault after the other on one server; no client may lose a request, or be refused."""

    def case(row: Row) -> None:
        write, reader = pipe()
        with reader, Site(workers=2, stdout=write, access_log=True) as site:
            os.close(write)
            site.reader = reader
            site.until_ready()
            with Clients(site, digit()).asking() as clients:
                clients.until("ok", 60)
                for name, fault in faults.items():
                    part = Row(name)
                    fault(part, site, clients)
                    row.failures += part.failures
                    row.healthy = part.healthy
            row.counts = clients.counts()
            site.signal(signal.SIGTERM)
            code, row.ended = site.end()
            row.expect(code == 0, f"status {code}")
            row.left = site.left_behind()
        row.judge(refused=False)

    return case
