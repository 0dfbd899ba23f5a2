"""What is measured: each task's models, its route, and the pictures that are posted."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PICTURES = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet-sample"


@dataclass(frozen=True, slots=True)
class Work:
    """One task.

    Attributes:
        model: the pipeline whose limit is measured; the route's default.
        models: what the server must load for the route.
        path: the route.
        answers: the member of the answer that holds the results.
    """

    model: str
    models: str
    path: str
    answers: str


TASKS = {
    "classify": Work("efficientnet-lite0", "efficientnet-lite0", "/v1/classify", "labels"),
    "detect": Work("yolo-person", "yolo-person", "/v1/detect", "detections"),
    "faces": Work("mtcnn", "mtcnn,dlib-resnet", "/v1/faces/detect", "faces"),
}


def pictures_in(folder: Path) -> list[Path]:
    """The JPEGs of a folder, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(folder.glob("*.jpg"))
    if not found:
        raise FileNotFoundError(f"no *.jpg in {folder}; name a folder with --pictures")
    return found


def check_answer(address: str, work: Work, picture: Path) -> None:
    """Posts one picture and looks at the answer, so that no rate of nonsense is measured.

    Raises:
        RuntimeError: it is not the task's answer.
    """
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", work.path, picture.read_bytes(), {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        body = response.read()
        answer: Any = json.loads(body) if response.status == 200 else None
    finally:
        connection.close()
    if answer is None or not isinstance(answer.get(work.answers), list) or not answer["image"]["width"]:
        raise RuntimeError(f"POST {work.path} gave {response.status}: {body[:500]!r}")
