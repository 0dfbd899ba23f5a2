"""How the tests are shared out to the processes of `pytest -n`."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

OWN = {
    "bento",
    "device_process",
    "fault_run",
    "faults",
    "gpu_report",
    "hostile",
    "jobs",
    "life",
    "own_models",
    "queued_jobs",
    "slow_clients",
}
"""The files of `tests/e2e` whose tests have servers of their own, and none of the others' server."""


class ByServer(LoadScopeScheduling):
    """A file is what a process takes at once; of the end-to-end tests that share a server, all of them are.

    So that server starts once, and no other process fills its queues or changes its counts.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        shared = file.startswith("tests/e2e/") and Path(file).stem.removeprefix("test_") not in OWN
        return "server" if shared else file
