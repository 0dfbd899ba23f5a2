"""What a server that asks for a key answers with it, without it, and with another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.golden.http import Http
from tests.golden.images import image
from tests.golden.rpc import INFERENCE, VISION, Img, Rpc

KEY = "golden-key"
HEADERS: dict[str, Mapping[str, str]] = {
    "no key": {},
    "the key": {"x-api-key": KEY},
    "the key as a bearer's": {"authorization": f"Bearer {KEY}"},
    "another key": {"x-api-key": "another"},
    "another bearer's": {"authorization": "Bearer another"},
    "basic": {"authorization": f"Basic {KEY}"},
}
OPEN = ("/livez", "/readyz", "/docs", "/v2/health/live", "/v2/health/ready")
ASKED = ("/v1/models", "/v1/nothing", "/v2", "/v2/models/lenet5")


def http_cases() -> Iterator[Http]:
    """Open routes, and those that need a key."""
    for path in OPEN:
        yield Http(f"GET {path}", "GET", path)
    for note, headers in HEADERS.items():
        yield Http(f"/v1/classify {note}", "POST", "/v1/classify", (), headers, image("digit-4"))
        for path in ASKED:
            yield Http(f"GET {path} {note}", "GET", path, (), headers)


def rpc_cases() -> Iterator[Rpc]:
    """A method of each service."""
    for note, headers in HEADERS.items():
        metadata = tuple(headers.items())
        message = {"image": Img("digit-4"), "top_k": 1}
        yield Rpc(f"Classify {note}", VISION, "Classify", [message], metadata)
        yield Rpc(f"ClassifyStream {note}", VISION, "ClassifyStream", [message], metadata)
        yield Rpc(f"ServerMetadata {note}", INFERENCE, "ServerMetadata", [{}], metadata)
    yield Rpc("health", "grpc.health.v1.Health", "Check", [{"service": VISION}])
