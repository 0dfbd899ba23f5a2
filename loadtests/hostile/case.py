"""A case: what is sent, and how often at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from loadtests.hostile.send import Outcome, Target

MIB = 2**20
CLASSIFY = "/v1/classify?top_k=1"
INFER = "/v2/models/efficientnet-lite0/infer"
JSON = {"Content-Type": "application/json"}
GZIP = {**JSON, "Content-Encoding": "gzip"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
BINARY = {"Inference-Header-Content-Length": "0"}
MODEL_INFER = "inference.GRPCInferenceService/ModelInfer"
VISION = "lynceus.v1.Vision"
LARGE = 64 * MIB - 4096
"""Just below the largest body."""


class Send(Protocol):
    """How a case is sent once; see `send` and `connections`."""

    def __call__(self, target: Target) -> Outcome: ...

    def size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request.

    Attributes:
        name: begins with its kind.
        send: sends it once.
        quick: whether it is part of the reduced run.
        at_once: how many are sent at once in the second round.
        requests: that it counts as: messages of a stream, connections; each may cost what one may.
    """

    name: str
    send: Send
    quick: bool = False
    at_once: int = 8
    requests: int = 1


_RECENT: dict[Callable[[], bytes], bytes] = {}


def recent(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """Gives what `make` makes, and keeps it until others have been made: eight senders need it at once."""

    def made() -> bytes:
        if make not in _RECENT:
            while len(_RECENT) > 1:
                del _RECENT[next(iter(_RECENT))]
            _RECENT[make] = make()
        return _RECENT[make]

    return made
