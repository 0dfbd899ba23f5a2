"""Locust users: clients of HTTP and gRPC with real images, which check the answers; a closed loop.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:3000 --headless -u 16 -r 16 -t 30s
    locust -f loadtests/locustfile.py,loadtests/shapefile.py --host ... --headless -u 32 --shape ramp

`slo.toml` has the share of each. Name classes after the options to have only those users
(`... Classifier`). Environment: `LOADTEST_IMAGES` and `LOADTEST_FACES`, folders of JPEGs (default: the
samples beside the checkout); each image of the second must show a face. A closed loop sends less as the
service gets slower: for percentiles take `openfile.py`, for the most that a machine can do
`loadtests.ceiling`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from locust import User, between, task
from locust.exception import StopUser

from loadtests import answers
from loadtests.asks import GRPC, Ask, ask, image_of
from loadtests.client import Client
from loadtests.grpc_client import VisionClient
from loadtests.tasks import TASKS
from loadtests.verdict import SLO, read_slo

MIX = read_slo(Path(os.environ.get("LOADTEST_SLO") or SLO)).mix
JPEG = {"Content-Type": "image/jpeg"}
PAUSE = between(0.0, 0.2)


class Classifier(Client):
    """Requests labels."""

    weight = MIX.get("classify", 0)
    wait_time = PAUSE

    @task(8)
    def classify(self) -> None:
        self.ask(ask("classify"))

    @task(2)
    def classify_best(self) -> None:
        path = f"{TASKS['classify'].path}?top_k=1"
        self.ask(Ask("classify, best", path, image_of("classify"), answers.labels(1), JPEG))


class Explainer(Client):
    """Requests explanations."""

    weight = min(1, MIX.get("classify", 0))
    wait_time = PAUSE

    @task
    def explain(self) -> None:
        self.ask(ask("explain"))


class DigitReader(Client):
    """Requests digits."""

    weight = MIX.get("digits", 0)
    wait_time = PAUSE

    @task
    def digits(self) -> None:
        self.ask(ask("digits"))


class Detector(Client):
    """Requests boxes."""

    weight = MIX.get("detect", 0)
    wait_time = PAUSE

    @task
    def detect(self) -> None:
        self.ask(ask("detect"))


class FaceFinder(Client):
    """Requests faces."""

    weight = MIX.get("faces", 0)
    wait_time = PAUSE

    @task
    def faces(self) -> None:
        self.ask(ask("faces"))


class Embedder(Client):
    """Requests embeddings of faces."""

    weight = MIX.get("embed", 0)
    wait_time = PAUSE

    @task
    def embed(self) -> None:
        self.ask(ask("embed"))


class Verifier(Client):
    """Requests verdicts on two images of faces."""

    weight = MIX.get("verify", 0)
    wait_time = PAUSE

    @task
    def verify(self) -> None:
        self.ask(ask("verify"))


class Stylizer(Client):
    """Requests stylized images, where the server has styles."""

    weight = 1
    wait_time = PAUSE

    def on_start(self) -> None:
        with self.client.get("/v1/styles", name="styles", catch_response=True) as response:
            problem = answers.problem_of(response.status_code, response.text, answers.styles)
            styles = response.json()["styles"] if problem is None else []
            response.success() if problem is None else response.failure(problem)
        if not styles:
            raise StopUser
        self._styles = [style["name"] for style in styles]

    @task
    def stylize(self) -> None:
        path = f"{TASKS['stylize'].path}?style={random.choice(self._styles)}"
        headers, body = JPEG | {"Accept": "image/jpeg"}, image_of("classify")
        with self.client.post(
            path, name="stylize", data=body, headers=headers, catch_response=True
        ) as response:
            if response.status_code == 200 and (response.content or b"").startswith(b"\xff\xd8"):
                response.success()
            else:
                response.failure(f"status {response.status_code}, no JPEG")


class GrpcUser(User):
    """Requests labels, boxes and verdicts over gRPC."""

    weight = sum(weight for name, weight in MIX.items() if name.endswith(GRPC))
    wait_time = PAUSE

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._client = VisionClient(environment)

    def on_stop(self) -> None:
        self._client.close()

    @task(8)
    def classify(self) -> None:
        self._client.ask(ask("classify/grpc"))

    @task(1)
    def detect(self) -> None:
        self._client.ask(ask("detect/grpc"))

    @task(1)
    def verify(self) -> None:
        self._client.ask(ask("verify/grpc"))
