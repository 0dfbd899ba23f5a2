"""Clients that ask all the time and count what they get; each keeps its connection, as clients do."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, Literal

import grpc

from loadtests.faults.case import Row, digit
from loadtests.faults.site import Site
from loadtests.message import message

CLIENT_TIMEOUT: Final = 10.0
"""Seconds until a client gives up: longer than the servers' limit of a request."""

PAUSE: Final = 0.02
What = Literal["ok", "refused", "late", "reset", "hung", "wrong"]
REFUSALS: Final = (429, 503)


class Clients:
    """Some over HTTP with kept connections, some with a new connection each time, some over gRPC.

    - ok: the right answer. wrong: another one, or a status that has no place.
    - refused: 429, 503, UNAVAILABLE, RESOURCE_EXHAUSTED, no connection; CANCELLED, which gRPC's library makes
      of a call that comes while the server closes.
    - late: 504, DEADLINE_EXCEEDED from the server within the client's timeout.
    - reset: a connection that ended without an answer. A kept one that the server had closed is tried again
      on a new one, as every client does.
    - hung: nothing within `CLIENT_TIMEOUT`.

    Args:
        site: the server; ready.
        image: encoded.
        kept: how many keep their connections.

    Attributes:
        lost: what counts as reset or wrong, in words.
    """

    def __init__(self, site: Site, image: bytes, *, kept: int = 3) -> None:
        self._site, self._image = site, image
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.expected = json.loads(self._post(None)[1])["labels"]
        kinds = [(self._keep, kept), (self._renew, 2), (self._call, 2)]
        self._threads = [
            threading.Thread(target=kind, daemon=True) for kind, number in kinds for _ in range(number)
        ]

    @contextlib.contextmanager
    def asking(self) -> Iterator[Clients]:
        """They ask meanwhile."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(2 * CLIENT_TIMEOUT)
            if self.lost:
                print("reset or wrong:", dict(self.lost), file=sys.stderr, flush=True)

    def counts(self) -> Counter[str]:
        """So far."""
        with self._lock:
            return Counter(self._counts)

    def until(self, what: str, more: int, seconds: float = 60.0) -> None:
        """Until so many more of a kind are counted."""
        wanted, end = self.counts()[what] + more, time.monotonic() + seconds
        while self.counts()[what] < wanted and time.monotonic() < end:
            time.sleep(0.01)

    def _count(self, what: What) -> None:
        with self._lock:
            self._counts[what] += 1
        self._stop.wait(PAUSE)

    def _post(self, connection: http.client.HTTPConnection | None) -> tuple[int, bytes]:
        mine = connection or http.client.HTTPConnection(self._site.address, timeout=CLIENT_TIMEOUT)
        mine.request("POST", "/v1/classify?top_k=1", self._image, {"content-type": "image/png"})
        answer = mine.getresponse()
        found = answer.status, answer.read()
        if connection is None:
            mine.close()
        return found

    def _asked(self, connection: http.client.HTTPConnection | None) -> What:
        reused = connection is not None and connection.sock is not None
        try:
            code, body = self._post(connection)
        except ConnectionRefusedError:
            if connection is not None:
                connection.close()  # or it takes the request for begun
            return "refused"
        except TimeoutError:
            return "hung"
        except (OSError, http.client.HTTPException) as error:
            if connection is not None:
                connection.close()
                if reused:
                    return self._asked(connection)
            self.lost[f"HTTP: {error!r}"] += 1
            return "reset"
        if code in REFUSALS:
            return "refused"
        if code == 504:
            return "late"
        if code == 200 and json.loads(body)["labels"] == self.expected:
            return "ok"
        self.lost[f"HTTP {code}: {body[:200]!r}"] += 1
        return "wrong"

    def _keep(self) -> None:
        connection = http.client.HTTPConnection(self._site.address, timeout=CLIENT_TIMEOUT)
        while not self._stop.is_set():
            what = self._asked(connection)
            if what in ("hung", "reset"):
                connection.close()
            self._count(what)
        connection.close()

    def _renew(self) -> None:
        while not self._stop.is_set():
            self._count(self._asked(None))

    def _call(self) -> None:
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._site.grpc_address, options) as channel:
            call: Any = channel.unary_unary("/lynceus.v1.Vision/Classify")
            while not self._stop.is_set():
                self._count(self._called(call))

    def _called(self, call: Any) -> What:
        began = time.monotonic()
        try:
            answer = call(message([self._image]), timeout=CLIENT_TIMEOUT)
        except grpc.RpcError as error:
            code, details = error.code(), str(error.details())
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return "hung" if time.monotonic() - began > 0.95 * CLIENT_TIMEOUT else "late"
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED or details.startswith("failed to connect"):
                return "refused"
            if code is grpc.StatusCode.CANCELLED:  # not begun: https://github.com/grpc/grpc/issues/41785
                return "refused"
            if code is not grpc.StatusCode.UNAVAILABLE:
                self.lost[f"gRPC: {code}: {details[:80]}"] += 1
                return "wrong"
            if "closed" not in details.lower() and "reset" not in details.lower():
                return "refused"
            self.lost[f"gRPC: {details[:80]}"] += 1
            return "reset"
        return "ok" if self.expected[0]["label"].encode() in answer else "wrong"


@contextlib.contextmanager
def asked(row: Row, site: Site, *, first: int = 60, kept: int = 3) -> Iterator[Clients]:
    """Clients that ask a server from when it is ready and `first` answers were right; counted in the end."""
    site.until_ready()
    with Clients(site, digit(), kept=kept).asking() as clients:
        clients.until("ok", first)
        yield clients
    row.counts = clients.counts()


BODY: Final = b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"
"""All of a request but its body."""


def drip(site: Site, seconds: float, begin: bytes = BODY) -> socket.socket:
    """A request of which the rest comes a byte at a time, for so long, from a thread."""
    connection = socket.create_connection(("127.0.0.1", site.port))
    connection.sendall(begin)

    def send() -> None:
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                connection.sendall(b"x")
                time.sleep(0.1)

    threading.Thread(target=send, daemon=True).start()
    return connection
