"""What all locust users share: options, how a request is sent and checked, and the record of a run.

Only locust's own files import this: gevent patches sockets and threads when locust is imported.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from locust import FastHttpUser, events

from loadtests.answers import problem_of
from loadtests.asks import Ask
from loadtests.record import ERROR, OK, SHED, Request
from loadtests.verdict import SLO

REQUEST = "lynceus"
"""Where a request's own figures lie in locust's context."""


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("Lynceus")
    group.add_argument("--grpc", default="", help="gRPC's host:port; default: the host's port 3001")
    group.add_argument("--slo", type=Path, default=SLO, help="where the mix stands")
    group.add_argument("--record", default="", help="a file that takes every request as a line of JSON")
    group.add_argument("--shape", default="", help="steady, ramp, spike, soak; default: none, users as given")
    group.add_argument("--seconds", type=float, default=0.0, help="how long the shape takes; 0: its own time")


@events.init.add_listener
def _keep_record(environment: Any, **_: Any) -> None:
    if not environment.parsed_options or not environment.parsed_options.record:
        return
    file: TextIO = Path(environment.parsed_options.record).open("w", encoding="utf-8")  # noqa: SIM115

    def keep(context: dict[str, Any], **_: Any) -> None:
        if REQUEST in context:
            file.write(json.dumps(asdict(context[REQUEST])) + "\n")

    environment.events.request.add_listener(keep)
    environment.events.quitting.add_listener(lambda **_: file.close())


class Client(FastHttpUser):
    """A user who posts images and reads the answers. Several of its requests may be under way."""

    abstract = True

    def ask(self, what: Ask, due: float | None = None) -> None:
        """One request; an answer that is not right counts as a failure.

        Args:
            due: when it was due, seconds since 1970; its latency counts from then. None: now.
        """
        left = time.time()
        due = left if due is None else due
        with self.client.post(
            what.path, name=what.name, data=what.body, headers=what.headers, catch_response=True
        ) as response:
            seconds = time.time() - due
            headers = response.headers or {}
            if response.status_code == 0:  # no answer
                problem: str | None = repr(response.request_meta["exception"])
            else:
                problem = problem_of(response.status_code, response.text, what.check)
            outcome = OK if problem is None else SHED if response.status_code == 429 else ERROR
            response.request_meta["response_time"] = 1000 * seconds
            response.request_meta["context"] = {
                REQUEST: Request(
                    what.name,
                    due,
                    left - due,
                    seconds,
                    outcome,
                    problem or "",
                    _number(headers.get("retry-after")),
                    _whole(headers.get("x-batch-size")),
                )
            }
            if problem is None:
                response.success()
            else:
                response.failure("refused" if outcome == SHED else problem)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:  # a date, which this service never sends
        return None


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
