"""What broken requests do to a real server: reduced runs of `loadtests.fuzz`."""

from __future__ import annotations

import psutil
import pytest

from loadtests.fuzz import grpc_fuzz, json_fuzz, multipart_fuzz
from loadtests.fuzz.wire import Kind, send_all
from tests.server import Server

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "kind", [json_fuzz.KIND, multipart_fuzz.KIND, grpc_fuzz.KIND], ids=["json", "multipart", "grpc"]
)
def test_broken_requests_are_answered_and_no_worker_dies(server: Server, kind: Kind) -> None:
    workers = psutil.Process(server.process.pid).children()
    result = send_all(kind, 20261125, range(500), f"127.0.0.1:{server.port}", server.grpc_address)
    assert result.wrong == {}
    assert result.statuses.total() == 500
    assert all(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
