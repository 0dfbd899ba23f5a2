"""A CPU worker does not import torch, which takes seconds and most of a gigabyte."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT

MODELS = "efficientnet-lite0,lenet5,yolo-person,efficientdet-lite0,mtcnn,dlib-resnet,paintings"
SETTINGS = {
    "LYNCEUS_DEVICE": "cpu",
    "LYNCEUS_MODELS": MODELS,
    "LYNCEUS_GRPC_PORT": "0",
    "LYNCEUS_WORKERS": "1",
    "LYNCEUS_TIMEOUT_SECONDS": "600",  # the machine may be busy
    "LYNCEUS_MAX_WAIT_SECONDS": "60",
}

SERVED = """
import asyncio, sys

import httpx
import numpy as np

import service.bento
import service.rpc.server
from models.image import encode
from service.app import build
from service.settings import Settings
from service.tasks import TASKS
from service.web.app import Application


def light(what):
    assert "torch" not in sys.modules and "torchvision" not in sys.modules, what


async def main():
    served = build(Settings(workers=1, slots=1))
    light("built")
    await served.start()
    light("started")
    photo = encode(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8), "jpeg")
    chip = encode(np.full((150, 150, 3), 90, np.uint8), "png")
    transport = httpx.ASGITransport(Application(served))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
        asked = {
            "/v1/classify": photo, "/v1/detect": photo, "/v1/detect?model=yolo-person": photo,
            "/v1/classify?model=lenet5": photo, "/v1/embed": photo,
            "/v1/stylize": photo, "/v1/faces/detect": photo, "/v1/faces/embed?aligned=true": chip,
            "/v1/analyze?tasks=classify,detect": photo, "/v1/classify/explain": photo,
            "/v1/classify/explain?kind=occlusion&model=lenet5": photo,
            "/v1/classify/explain?kind=activations&model=lenet5": photo,
        }
        for path, body in asked.items():
            answer = await client.post(path, content=body)
            assert answer.status_code == 200, (path, answer.text)
            light(path)
        of_model = (f"/v1/models/lenet5/{what}" for what in ("filters", "layers"))
        for path in ("/v1/models", "/v1/styles", *of_model, "/openapi.json"):
            assert (await client.get(path)).status_code == 200, path
            light(path)
    await served.stop()


asyncio.run(main())
"""


HIDDEN = """
import os
import sys

sys.modules["torch"] = sys.modules["torchvision"] = None  # as if they were not installed

import asyncio

import httpx
import numpy as np

from models.image import encode
from service.app import build
from service.check import main as check
from service.jobs.worker import main as work
from service.settings import Settings
from service.web.app import Application


async def main():
    assert check([]) == 0
    served = build(Settings(models=("efficientnet-lite0", "lenet5"), workers=1, slots=1))
    await served.start()
    photo = encode(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8), "jpeg")
    transport = httpx.ASGITransport(Application(served))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
        assert (await client.post("/v1/classify", content=photo)).status_code == 200
        files = {"content": photo, "style": photo}
        for answer in (
            await client.post("/v1/classify/explain", content=photo),
            await client.post("/v1/classify/explain?kind=windows", content=photo),
            await client.get("/v1/models/lenet5/filters"),
            await client.get("/v1/models/lenet5/layers"),
            await client.post("/v1/models/lenet5/visualize/jobs?label=3"),
            await client.post("/v1/stylize/jobs", files=files),
        ):
            assert (answer.status_code, answer.json()["code"]) == (501, "not_supported"), answer.text
        answer = await client.post("/v1/classify/explain?kind=occlusion", content=photo)
        assert answer.status_code == 200, answer.text
        assert (await client.get("/v1/jobs/" + 32 * "0")).json()["code"] == "job_unknown"
    await served.stop()


asyncio.run(main())
os.environ["LYNCEUS_JOBS"] = "redis://127.0.0.1:9/0"  # which it does not come to ask
assert work() == os.EX_CONFIG
"""


def alone(*command: str) -> None:
    """Runs a fresh interpreter."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LYNCEUS_")}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *command],
        cwd=ROOT,
        env=kept | SETTINGS | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def networks() -> None:
    """Converts what no one has yet, which takes torch."""
    alone("-m", "service.check", "--unmade")


def test_a_worker_serves_every_task_without_torch() -> None:
    alone("-c", SERVED)


def test_where_torch_is_not_installed_only_what_takes_it_is_refused() -> None:
    alone("-c", HIDDEN)
