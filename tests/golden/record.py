"""Sends every request to a server and gives the answers; stores and loads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx

from tests.golden import documents, http, http_cases, jobs, keys, rpc, rpc_cases, v2_cases, v2_rpc_cases
from tests.golden.answers import Json

FOLDER = Path(__file__).with_name("answers")
GROUPS = ("http", "rpc", "v2_http", "v2_rpc", "jobs", "documents", "keys")
AT_ONCE = 4
SETTINGS: Final[dict[str, Any]] = {
    "workers": 2,
    "threads": 1,
    "precision": "float32",
    "max_queue": 16,
    "max_batch": 4,
    "max_image_bytes": 4 * 1024 * 1024,
    "max_images": 8,
    "drain_seconds": 0,
}
"""Of the server of all end-to-end tests: small limits, so that they can be met, and the precision that every
machine has."""
KEYS_SETTINGS: Final[dict[str, Any]] = {
    "models": "lenet5",
    "workers": 1,
    "threads": 1,
    "drain_seconds": 0,
    "api_keys": keys.KEY,
}
"""Of a small server that asks for a key."""


def record(url: str, address: str) -> dict[str, dict[str, Json]]:
    """The answers of a server to every request whose images are there, by group and name."""
    client = httpx.Client(base_url=url, timeout=120, limits=httpx.Limits(max_connections=2 * AT_ONCE))
    caller = rpc.Client(address)
    with client, ThreadPoolExecutor(AT_ONCE) as pool:
        lives = pool.submit(jobs.lives, client)  # takes a while and does not need the others to wait
        tasks: dict[str, dict[str, Callable[[], Json]]] = {group: {} for group in GROUPS if group != "keys"}
        for group, requests in (("http", http_cases.all_cases()), ("v2_http", v2_cases.http_cases())):
            for request in filter(http.possible, requests):
                tasks[group][request.name] = lambda request=request: http.send(client, request)
        for group, calls in (("rpc", rpc_cases.all_cases()), ("v2_rpc", v2_rpc_cases.rpc_cases())):
            for call in filter(rpc.possible, calls):
                tasks[group][call.name] = lambda call=call: caller.send(call)
        tasks["documents"] = {
            "openapi": lambda: documents.openapi(client),
            "reflection": lambda: documents.reflection(caller),
            "metrics": lambda: documents.metrics(client),
        }
        futures = {
            group: {name: pool.submit(task) for name, task in several.items()}
            for group, several in tasks.items()
        }
        found = {
            group: {name: future.result() for name, future in several.items()}
            for group, several in futures.items()
        }
        found["jobs"] = lives.result()
        caller.close()
    return found


def record_keys(url: str, address: str) -> dict[str, Json]:
    """The answers of a server with `KEYS_SETTINGS`."""
    caller = rpc.Client(address)
    with httpx.Client(base_url=url, timeout=120) as client:
        found = {case.name: http.send(client, case) for case in keys.http_cases()}
    found |= {case.name: caller.send(case) for case in keys.rpc_cases()}
    caller.close()
    return found


def load(group: str) -> dict[str, Json]:
    """The stored answers of a group; none where there is no file."""
    path = FOLDER / f"{group}.json"
    found: dict[str, Json] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def save(group: str, answers: dict[str, Json]) -> None:
    """Stores them, one a line, by name."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(answers[name], separators=(',', ':'), sort_keys=True)}"
        for name in sorted(answers)
    ]
    (FOLDER / f"{group}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
