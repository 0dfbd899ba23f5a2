"""Average precision of a detector on labelled images, by COCO's own code (pycocotools).

python -m models.training.yolo.evaluate DATA --labels person --weights yolo-person.safetensors
python -m models.training.yolo.evaluate DATA --labels person --model yolo-fastest --catalogue mine.toml
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models import registry
from models.detection.pipeline import DetectorPipeline
from models.detection.result import DetectOptions
from models.detection.yolo import Detector, Yolo, load
from models.image import decode
from models.pipeline import Card, Kind
from models.training.yolo.data import split
from models.training.yolo.folder import Folder, Sample
from models.weights import CATALOGUE, Catalogue, Store

OPTIONS = DetectOptions(score_threshold=0.001, iou_threshold=0.6, max_detections=100)
"""Low and lenient, as usual for average precision."""


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


def pipeline_of(network: Yolo, size: int | None = None) -> DetectorPipeline:
    """A network as it would be served, on a canvas of `size` (its own if None)."""
    side = size or network.config.size
    card = Card("measured", Kind.DETECT, "", "", network.config.labels, (side, side))
    return DetectorPipeline(card, Detector(network))


def detect(
    pipeline: DetectorPipeline,
    samples: Sequence[Sample],
    labels: Sequence[str],
    options: DetectOptions = OPTIONS,
    batch: int = 16,
) -> list[Found]:
    """Runs a pipeline over samples, exactly as serving does; classes are indices into `labels`.

    The model may have more classes than `labels`, in another order.
    """
    index = {label: place for place, label in enumerate(labels)}
    options = options.model_copy(update={"classes": tuple(labels)})
    found: list[Found] = []
    for start in range(0, len(samples), batch):
        images = [decode(sample.path.read_bytes()) for sample in samples[start : start + batch]]
        items = [pipeline.preprocess(image, options) for image in images]
        with torch.inference_mode():
            outputs = pipeline.module(torch.from_numpy(np.stack([item.inputs[0] for item in items])))
        answers = pipeline.postprocess(outputs, [item.context for item in items])
        found += [
            (start + place, index[item.label], item.score, item.box)
            for place, answer in enumerate(answers)
            for item in answer.items
        ]
    return found


def evaluate(
    pipeline: DetectorPipeline,
    samples: Sequence[Sample],
    labels: Sequence[str],
    options: DetectOptions = OPTIONS,
) -> Precision:
    """COCO's figures of a pipeline on samples whose classes are `labels`."""
    return precision(samples, detect(pipeline, samples, labels, options), len(labels))


def precision(samples: Sequence[Sample], found: Sequence[Found], classes: int) -> Precision:
    """COCO's figures of detections on samples."""
    annotations: list[dict[str, object]] = []
    entries = []
    for index, sample in enumerate(samples):
        width, height = sample.size
        entries.append({"id": index + 1, "width": width, "height": height})
        for kind, x, y, w, h in sample.boxes.tolist():
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(kind) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
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
    """Prints COCO's figures of a model on the held-out part of a folder (see `data.held_out`)."""
    parser = argparse.ArgumentParser(prog="python -m models.training.yolo.evaluate", description=main.__doc__)
    parser.add_argument("data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--labels", nargs="+", required=True, help="class names of the data, by index")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--weights", type=Path, help="a file that models.training.yolo wrote")
    which.add_argument("--model", help="a detector of the catalogue")
    parser.add_argument("--size", type=int, help="side of the canvas, with --weights")
    parser.add_argument("--catalogue", type=Path, help="an operator's own catalogue, with --model")
    parser.add_argument(
        "--iou-threshold", type=float, default=OPTIONS.iou_threshold, help="of the suppression"
    )
    options = parser.parse_args(arguments)
    if options.weights is not None:
        pipeline = pipeline_of(load(options.weights), options.size)
    else:
        paths = [CATALOGUE, options.catalogue] if options.catalogue else [CATALOGUE]
        built = registry.build(options.model, Catalogue(paths), Store())
        if not isinstance(built, DetectorPipeline):
            parser.error(f"{options.model} is no detector")
        pipeline = built
    _, held = split(Folder.read(options.data, classes=len(options.labels)))
    suppression = OPTIONS.model_copy(update={"iou_threshold": options.iou_threshold})
    figures = evaluate(pipeline, held, options.labels, suppression)
    print(f"{len(held)} images, canvas {pipeline.card.input}: {figures}")


if __name__ == "__main__":
    main()
