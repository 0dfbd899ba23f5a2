"""docs/own-models.md: every entry and every request of it, with random networks of those layouts; and that
exported files answer over HTTP what their modules answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import v2

from models import registry
from models.detection import yolo
from models.image import decode, letterbox
from models.pipeline import Kind, Pipeline
from models.weights import CATALOGUE, Catalogue, Store, sha256_of
from service.engine.executor import Executor, make_executor
from service.settings import Settings
from tests.models.exported.files import FORMATS, Classifier, export, served
from tests.models.exported.test_embedder import ArcFace
from tests.paths import ROOT, SHARED, needs_shared
from tests.service.transports import Transports, open_transports

PAGE = (ROOT / "docs" / "own-models.md").read_text(encoding="utf-8")
PHOTOS = SHARED / "data" / "photos"


def fenced(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def on_a_cpu(pipeline: Pipeline) -> Executor:
    return make_executor(pipeline, Settings(device="cpu", workers=1, threads=1))


class Yolo(nn.Module):
    """A small network with the head of YOLOv8: three strides, sides as distributions over 16 bins, anchor
    points made while it runs: [N, 3, H, W] -> [N, 4 + classes, boxes]."""

    BINS = 16

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.classes = classes
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.SiLU())
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 2, 2), nn.SiLU()) for _ in range(2))
        self.sides = nn.ModuleList(nn.Conv2d(8, 4 * self.BINS, 1) for _ in range(3))
        self.kinds = nn.ModuleList(nn.Conv2d(8, classes, 1) for _ in range(3))
        with torch.no_grad():
            for layer in (*self.sides, *self.kinds):
                layer.weight.mul_(12)

    def forward(self, images: Tensor) -> Tensor:
        features = [self.stem(images)]
        for layer in self.down:
            features.append(layer(features[-1]))
        points, strides, rows = [], [], []
        for stride, feature, sides, kinds in zip((8, 16, 32), features, self.sides, self.kinds, strict=True):
            height, width = feature.shape[2:]
            y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            points.append(torch.stack((x, y)).view(2, -1))
            strides.append(torch.full((1, height * width), float(stride)))
            level = torch.cat((sides(feature), kinds(feature)), 1)
            rows.append(level.view(images.shape[0], 4 * self.BINS + self.classes, -1))
        raw, scores = torch.cat(rows, 2).split((4 * self.BINS, self.classes), 1)
        bins = raw.view(images.shape[0], 4, self.BINS, -1).softmax(2)
        lengths = (bins * torch.arange(self.BINS).view(1, 1, -1, 1)).sum(2)
        near, far = lengths.chunk(2, 1)
        centre = torch.cat(points, 1)
        corners = centre - near, centre + far
        boxes = torch.cat(((corners[0] + corners[1]) / 2, corners[1] - corners[0]), 1) * torch.cat(strides, 1)
        return torch.cat((boxes, scores.sigmoid()), 1)


class YoloX(nn.Module):
    """Of YOLOX's layout: BGR bytes [N, 3, S, S] -> [N, cells, 5 + classes], offsets and logarithms."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.levels = nn.ModuleList(nn.Conv2d(3, 5 + classes, stride, stride) for stride in (8, 16, 32))

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.cat([level(images / 255).flatten(2) for level in self.levels], 2).transpose(1, 2)
        return torch.cat((rows[..., :4], (4 * rows[..., 4:]).sigmoid()), 2)


def make_files(folder: Path) -> None:
    """What the examples begin with."""
    torch.manual_seed(0)
    save_file(
        torchvision.models.resnet50(weights=None, num_classes=10).state_dict(), folder / "flowers.safetensors"
    )
    (folder / "flowers.txt").write_text("\n".join(f"flower {index}" for index in range(10)), encoding="utf-8")
    export(Yolo(3), folder / "best.onnx", (3, 640, 640))
    export(YoloX(2), folder / "yolox_s.onnx", (3, 416, 416))
    export(ArcFace(), folder / "w600k_r50.onnx", (3, 112, 112))
    anchors = tuple(
        tuple((side * stride, side * stride) for side in (2.0, 3.0, 4.0)) for stride in (8, 16, 32)
    )
    trained = yolo.Yolo(yolo.YoloConfig(("person", "helmet"), anchors, size=192))
    with torch.no_grad():
        for head in trained.heads:
            head[-1].bias.fill_(1.0)  # it finds something
    (folder / "run").mkdir()
    yolo.save(trained, folder / "run" / "best.safetensors")


def export_as_documented(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the page's own lines of the second example."""
    (lines,) = [block for block in fenced("python", PAGE) if "torch.export.save" in block]
    monkeypatch.chdir(folder)
    exec(lines, {"model": Classifier(4)})  # noqa: S102


def write_catalogue(folder: Path) -> Path:
    """The page's entries as they stand, but for the digests of the files."""
    text = "\n".join(fenced("toml", PAGE))
    for name in re.findall(r'path = "([^"]+)", sha256 = "\.\.\."', text):
        digest = sha256_of(folder / name)
        text = text.replace(f'path = "{name}", sha256 = "..."', f'path = "{name}", sha256 = "{digest}"')
    assert "..." not in text
    path = folder / "catalogue.toml"
    path.write_text(text, encoding="utf-8")
    return path


def asked(transports: Transports, command: str) -> httpx.Response:
    """Sends what a curl command of the page sends, with photos of the shared data."""
    words = shlex.split(command)
    (address,) = [word for word in words if word.startswith("localhost:3000")]
    path = address.removeprefix("localhost:3000")
    headers = dict(word.split(": ") for word in words if re.match(r"^[A-Z][\w-]+: ", word))
    fields = [words[index + 1] for index, word in enumerate(words) if word == "-F"]
    people = sorted((SHARED / "data" / "faces").glob("*/*.jpg"))
    if fields:
        files = {field.partition("=")[0]: people[index].read_bytes() for index, field in enumerate(fields)}
        return transports.http("POST", path, files=files)
    photo = people[0] if "faces" in path else PHOTOS / "dog.jpg"
    return transports.http("POST", path, content=photo.read_bytes(), headers=headers)


@needs_shared
def test_every_example_of_the_page_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path)
    export_as_documented(tmp_path, monkeypatch)
    catalogue = Catalogue((CATALOGUE, write_catalogue(tmp_path)))
    names = ["flowers", "birds", "parts", "yolox", "mtcnn", "arcface", "helmets"]
    pipelines = [registry.build(name, catalogue, Store()) for name in names]
    examples = PAGE[PAGE.index("## Five examples") : PAGE.index("## When it does not start")]
    commands = [
        line for block in fenced("sh", examples) for line in block.splitlines() if line.startswith("curl")
    ]
    seen = set()
    with open_transports(pipelines, executor=on_a_cpu) as transports:
        for command in commands:
            answer = asked(transports, command)
            assert answer.status_code == 200, (command, answer.text)
            if "Accept: image/jpeg" in command:
                assert answer.content.startswith(b"\xff\xd8\xff")
                continue
            body = answer.json()
            match command:
                case str() if "faces/verify" in command:
                    assert body["metric"] == "cosine"
                    assert body["distance"] == pytest.approx(1 - body["similarity"], abs=1e-6)
                    assert body["model"]["name"] == "arcface"
                case str() if "faces/embed" in command:
                    assert len(body["faces"][0]["embedding"]) == 64
                case str() if "classify" in command:
                    assert len(body["labels"]) == 3
                case _:
                    assert body["detections"]
            seen.add(re.findall(r"(?:model|embedder)=(\w+)", command)[0])
        for name in names:
            if name != "mtcnn":
                assert transports.http("GET", f"/v1/models/{name}").json()["executor"] == "openvino"
    assert seen == {*names} - {"mtcnn"}


@contextmanager
def over_http(pipeline: Pipeline, *more: Pipeline) -> Iterator[Callable[..., Any]]:
    with open_transports([pipeline, *more], executor=on_a_cpu) as transports:

        def post(path: str, content: bytes) -> Any:
            answer = transports.http("POST", path, content=content)
            assert answer.status_code == 200, answer.text[:500]
            return answer.json()

        yield post


def photos() -> list[bytes]:
    return [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[:5]]


@needs_shared
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_classifier_says_what_its_module_says(suffix: str, tmp_path: Path) -> None:
    network = Classifier(8)
    path = export(network, tmp_path / f"mine.{suffix}", (3, 160, 160))
    options = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": [160, 160]}
    pipeline = served(Kind.CLASSIFY, path, **options, labels=list("abcdefgh"), fraction=0.875)
    preset = v2.Compose(
        [
            v2.Resize(183, antialias=True),
            v2.CenterCrop(160),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(options["mean"], options["std"]),
        ]
    )
    with over_http(pipeline) as post, torch.inference_mode():
        for photo in photos():
            pixels = torch.from_numpy(
                cv2.cvtColor(cv2.imdecode(np.frombuffer(photo, np.uint8), 1), cv2.COLOR_BGR2RGB)
            )
            wanted = network(preset(pixels.permute(2, 0, 1))[None]).softmax(1)[0]
            best = post("/v1/classify?top_k=1", photo)["labels"][0]
            assert best["index"] == int(wanted.argmax())
            assert best["score"] == pytest.approx(float(wanted.max()), abs=0.03)


class Featured(nn.Module):
    """A classifier that gives what its last layer takes, too."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Classifier(3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.layers[:-1](images)
        return self.network.layers[-1](features), features


@needs_shared
def test_a_second_output_is_the_vector_of_an_image(tmp_path: Path) -> None:
    network = Featured()
    path = export(network, tmp_path / "mine.pt2", (3, 64, 64))
    pipeline = served(Kind.CLASSIFY, path, size=[64, 64], labels=["a", "b", "c"], features="1")
    with over_http(pipeline) as post, torch.inference_mode():
        for photo in photos()[:2]:
            answer = post("/v1/embed", photo)
            pixels = pipeline.preprocess(decode(photo, min_side=pipeline.min_side)).inputs[0]
            wanted = network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[1][0].numpy()
            np.testing.assert_allclose(answer["embedding"], wanted / np.linalg.norm(wanted), atol=1e-4)
            assert (answer["dimensions"], answer["sha256"]) == (32, pipeline.card.sha256)


@needs_shared
def test_a_detector_says_what_its_module_says(tmp_path: Path) -> None:
    network = Yolo(3)
    path = export(network, tmp_path / "mine.onnx", (3, 320, 320))
    pipeline = served(Kind.DETECT, path, size=[320, 320], head="yolov8", labels=["a", "b", "c"])
    with over_http(pipeline) as post, torch.inference_mode():
        for photo in photos():
            image = decode(photo, min_side=320)
            canvas, geometry = letterbox(image, 320, 320)
            rows = network(torch.from_numpy(canvas).permute(2, 0, 1)[None] / 255)[0].T
            corners = torchvision.ops.box_convert(rows[:, :4], "cxcywh", "xyxy")
            # a box may be of several classes; above this score are fewer than go into suppression at most
            box, kind = (rows[:, 4:] >= 0.87).nonzero(as_tuple=True)
            assert len(box) < 1000
            kept = torchvision.ops.batched_nms(corners[box], rows[box, 4 + kind], kind, 0.5)
            boxes = torch.from_numpy(geometry.undo_boxes(corners[box[kept]].numpy()))
            inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            wanted = torch.cat((boxes, kind[kept, None], rows[box[kept], 4 + kind[kept]][:, None]), 1)[inside]
            found = post("/v1/detect?max_detections=1000&score_threshold=0.87", photo)["detections"]
            assert len(found) == len(wanted) > 2
            got = np.array([[*one["box"], one["class_id"], one["score"]] for one in found])
            for row in wanted.numpy():
                near = got[got[:, 4] == row[4]]
                distance = np.abs(near[:, :4] - row[:4]).max(1)
                assert distance.min() <= 1  # pixel
                assert near[distance.argmin(), 5] == pytest.approx(row[5], abs=1e-3)


@needs_shared
def test_an_embedder_says_what_its_module_says(tmp_path: Path) -> None:
    network = ArcFace().eval()
    path = export(network, tmp_path / "mine.pt", (3, 112, 112))
    options = {"size": [112, 112], "scale": 1.0, "mean": [127.5], "std": [127.5], "threshold": 0.6}
    with over_http(served(Kind.EMBED, path, **options)) as post, torch.inference_mode():
        for photo in photos():
            chip = cv2.resize(
                cv2.imdecode(np.frombuffer(photo, np.uint8), 1), (112, 112), interpolation=cv2.INTER_AREA
            )
            inputs = torch.from_numpy(chip[..., ::-1].copy()).permute(2, 0, 1)[None]
            wanted = nn.functional.normalize(network((inputs - 127.5) / 127.5))[0].numpy()
            crop = bytes(cv2.imencode(".png", chip)[1])
            (face,) = post("/v1/faces/embed?aligned=true", crop)["faces"]
            assert float(np.dot(face["embedding"], wanted)) > 0.999
