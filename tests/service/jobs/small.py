"""Small things for the tests of jobs: a loss network of random weights on disk, pictures, a wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from models.classification.efficientnet import EfficientNetLite
from models.image import encode
from models.pipeline import WeightsFile
from models.weights import sha256_of
from service.jobs.job import JobKind, NewJob
from tests.models.style.small import picture, random_backbone

CONTENT, STYLE = encode(picture(48, 70, 1), "png"), encode(picture(90, 80, 2), "jpeg")


def random_network(folder: Path) -> WeightsFile:
    """A checkpoint as the catalogue's, but untrained."""
    network = EfficientNetLite(classes=2)
    network.backbone = random_backbone()
    path = folder / "random.pth"
    torch.save(network.state_dict(), path)
    return WeightsFile(path, sha256_of(path))


def new_job(
    options: Mapping[str, Any],
    steps: int,
    content: bytes = b"content",
    style: bytes = b"style",
    **others: Any,
) -> NewJob:
    """A style job."""
    return NewJob(JobKind.STYLIZE, options, steps, {"content": content, "style": style}, **others)


def until(true: Callable[[], bool], seconds: float = 280) -> None:
    """Waits for something that another process or thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """No such process, or only its entry until its parent asks for it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"
