"""Average precision of a detector on labelled images, by COCO's own code (pycocotools).

    python -m models.training.yolo.evaluate DATA --labels person --weights yolo-person.safetensors
    python -m models.training.yolo.evaluate DATA --labels person --model yolo-fastest --catalogue mine.toml
    python -m models.training.yolo.evaluate coco80/val --all --names coco80/coco.names \\
        --crowd coco80/crowd.json --model efficientdet-lite0 --url http://127.0.0.1:3000

With `--url` a running server answers, and its time is printed too; else the model runs here, in PyTorch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models import registry
from models.checkpoint import read_labels
from models.detection.pipeline import DetectorPipeline
from models.detection.result import DetectOptions
from models.detection.yolo import Detector, Yolo, load
from models.image import decode
from models.pipeline import Card, Kind, eager
from models.training.yolo.data import split
from models.training.yolo.folder import Folder, Sample
from models.weights import Store, standard_catalogue

OPTIONS = DetectOptions(score_threshold=0.001, iou_threshold=0.6, max_detections=100)
"""Low and lenient, as usual for average precision."""
BATCH = 16
SERVED = OPTIONS.model_copy(update={"iou_threshold": None})
"""Of a running server: the suppression is the model's own."""


@dataclass(frozen=True)
class Precision:
    """COCO's figures, 0 to 1, over all classes.

    Attributes:
        ap50: at an IoU of 0.5.
        ap: the mean over IoUs of 0.5 to 0.95.
        small, medium, large: `ap` of boxes under 32 x 32, up to 96 x 96 and above, original pixels; -1: none.
    """

    ap50: float
    ap: float
    small: float
    medium: float
    large: float


Found = tuple[int, int, float, tuple[float, float, float, float]]
"""A detection: index of the sample, class, score, xyxy box in pixels of the image."""

Crowds = Mapping[str, Sequence[Sequence[float]]]
"""Regions by an image's name without suffix: class, x1, y1, x2, y2 in 0..1 of the image. What is found in a
crowd of its class counts neither as right nor as wrong."""


def pipeline_of(network: Yolo, size: int | None = None) -> DetectorPipeline:
    """A network as it would be served, on a canvas of `size` (its own if None)."""
    side = size or network.config.size
    card = Card("measured", Kind.DETECT, "", "", network.config.labels, (side, side))
    return DetectorPipeline(card, lambda: Detector(network))


def detect(
    pipeline: DetectorPipeline,
    samples: Sequence[Sample],
    labels: Sequence[str],
    options: DetectOptions = OPTIONS,
) -> list[Found]:
    """Runs a pipeline over samples, exactly as serving does; classes are indices into `labels`.

    The model may have more classes than `labels`, in another order.
    """
    index = {label: place for place, label in enumerate(labels)}
    options = options.model_copy(update={"classes": tuple(labels)})
    found: list[Found] = []
    for start in range(0, len(samples), BATCH):
        images = [decode(sample.path.read_bytes()) for sample in samples[start : start + BATCH]]
        items = [pipeline.preprocess(image, options) for image in images]
        outputs = eager(pipeline.module, np.stack([item.inputs[0] for item in items]))
        answers = pipeline.postprocess(outputs, [item.context for item in items])
        found += [
            (start + place, index[item.label], item.score, item.box)
            for place, answer in enumerate(answers)
            for item in answer.items
        ]
    return found


def evaluate(pipeline: DetectorPipeline, samples: Sequence[Sample], labels: Sequence[str]) -> Precision:
    """COCO's figures of a pipeline on samples whose classes are `labels`."""
    return precision(samples, detect(pipeline, samples, labels), len(labels))


def detect_over_http(
    url: str,
    model: str | None,
    samples: Sequence[Sample],
    labels: Sequence[str],
    options: DetectOptions = SERVED,
) -> tuple[list[Found], list[float]]:
    """As `detect`, but a running server answers, one image at a time.

    Returns:
        the detections, and for each image the seconds that the server says its network and suppression took.

    Raises:
        RuntimeError: an answer is an error.
    """
    index = {label: place for place, label in enumerate(labels)}
    query = {"model": model, **options.model_dump(exclude_none=True), "classes": ",".join(labels)}
    path = "/v1/detect?" + urlencode({name: value for name, value in query.items() if value is not None})
    connection = HTTPConnection(urlsplit(url).netloc, timeout=120)
    found: list[Found] = []
    seconds = []
    with contextlib.closing(connection):
        for place, sample in enumerate(samples):
            connection.request("POST", path, sample.path.read_bytes(), {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise RuntimeError(f"{sample.path.name}: {answer}")
            found += [
                (place, index[item["label"]], item["score"], tuple(item["box"]))
                for item in answer["detections"]
            ]
            stages = dict(part.split(";dur=") for part in response.headers["Server-Timing"].split(", "))
            seconds.append(float(stages["compute"]) / 1000)
    return found, seconds


def apart(samples: Sequence[Sample], most: int) -> tuple[tuple[Sample, ...], Crowds]:
    """Of label files that hold crowd regions as the boxes after their first `most`: both by themselves."""
    crowds = {}
    for sample in samples:
        kind, x, y, w, h = sample.boxes[most:].T
        rows = np.stack((kind, x - w / 2, y - h / 2, x + w / 2, y + h / 2), axis=1)
        crowds[sample.path.stem] = rows.tolist()
    return tuple(Sample(sample.path, sample.boxes[:most]) for sample in samples), crowds


def precision(
    samples: Sequence[Sample], found: Sequence[Found], classes: int, crowds: Crowds | None = None
) -> Precision:
    """COCO's figures of detections on samples."""
    annotations: list[dict[str, object]] = []
    entries = []

    def add(image: int, kind: float, box: Sequence[float], *, crowd: bool) -> None:
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(kind) + 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
            }
        )

    for image, sample in enumerate(samples, start=1):
        width, height = sample.size
        entries.append({"id": image, "width": width, "height": height})
        for kind, x, y, w, h in sample.boxes.tolist():
            box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
            add(image, kind, box, crowd=False)
        for kind, x1, y1, x2, y2 in (crowds or {}).get(sample.path.stem, ()):
            if kind < classes:
                box = (x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height)
                add(image, kind, box, crowd=True)
    if not found:
        return Precision(0.0, 0.0, 0.0, 0.0, 0.0)
    rows = np.array([(i + 1, x1, y1, x2 - x1, y2 - y1, s, k + 1) for i, k, s, (x1, y1, x2, y2) in found])
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth = COCO()
        truth.dataset = {
            "images": entries,
            "annotations": annotations,
            "categories": [{"id": index + 1, "name": str(index)} for index in range(classes)],
        }
        truth.createIndex()
        measure = COCOeval(truth, truth.loadRes(rows), "bbox")
        measure.evaluate()
        measure.accumulate()
        measure.summarize()
    ap, ap50, _, small, medium, large = (float(value) for value in measure.stats[:6])
    return Precision(ap50, ap, small, medium, large)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints COCO's figures of a model on the held-out part of a folder (see `data.held_out`), as JSON."""
    parser = argparse.ArgumentParser(prog="python -m models.training.yolo.evaluate", description=main.__doc__)
    parser.add_argument("data", type=Path, help="folder with images/ and labels/")
    names = parser.add_mutually_exclusive_group(required=True)
    names.add_argument("--labels", nargs="+", help="class names of the data, by index")
    names.add_argument("--names", type=Path, help="a file of them, one a line")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--weights", type=Path, help="a file that models.training.yolo wrote")
    which.add_argument("--model", help="a detector of the catalogue; with --url default: the server's")
    parser.add_argument("--url", help="a running server that answers")
    parser.add_argument("--all", action="store_true", help="on all of the folder's images")
    parser.add_argument("--crowd", type=Path, help="JSON of crowd regions, see Crowds")
    parser.add_argument(
        "--crowd-after",
        type=int,
        help="a label file's boxes after so many are crowd regions (coco-person: 13)",
    )
    parser.add_argument("--size", type=int, help="side of the canvas, with --weights")
    parser.add_argument("--catalogue", type=Path, help="an operator's own catalogue, with --model")
    parser.add_argument(
        "--iou-threshold", type=float, help="of the suppression; default: 0.6, with --url the model's own"
    )
    options = parser.parse_args(arguments)
    if options.url is None and options.weights is None and options.model is None:
        parser.error("name --weights, --model or --url")
    labels = options.labels or read_labels(options.names)
    folder = Folder.read(options.data, classes=len(labels))
    samples = folder.samples if options.all else split(folder)[1]
    crowds = json.loads(options.crowd.read_text(encoding="utf-8")) if options.crowd else None
    if options.crowd_after is not None:
        samples, crowds = apart(samples, options.crowd_after)
    asked = OPTIONS if options.url is None else SERVED
    if options.iou_threshold is not None:
        asked = asked.model_copy(update={"iou_threshold": options.iou_threshold})
    seconds: list[float] = []
    if options.url is not None:
        found, seconds = detect_over_http(options.url, options.model, samples, labels, asked)
    else:
        found = detect(_pipeline(parser, options), samples, labels, asked)
    figures = asdict(precision(samples, found, len(labels), crowds))
    timing = {"compute_ms": round(1000 * statistics.median(seconds), 1)} if seconds else {}
    rounded = {name: round(value, 4) for name, value in figures.items()}
    print(json.dumps({"images": len(samples), **rounded, **timing}))


def _pipeline(parser: argparse.ArgumentParser, options: argparse.Namespace) -> DetectorPipeline:
    if options.weights is not None:
        return pipeline_of(load(options.weights), options.size)
    built = registry.build(options.model, standard_catalogue(options.catalogue), Store())
    if not isinstance(built, DetectorPipeline):
        parser.error(f"{options.model} is no detector")
    return built


if __name__ == "__main__":
    main()
