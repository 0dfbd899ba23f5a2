"""Average precision of a detector on labelled pictures, by COCO's own code (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from models import boxes as box_ops
from models.detection.folder import Sample
from models.image import letterbox
from models.training.data import canvases


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


def evaluate(
    module: Callable[[Tensor], tuple[Tensor, Tensor]],
    samples: Sequence[Sample],
    size: int,
    classes: int,
    *,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
) -> Precision:
    """Runs a served module (see `DetectorPipeline`) over samples and measures it.

    Args:
        module: uint8 Tensor[N, size, size, 3] -> boxes Tensor[N, A, 4], scores Tensor[N, A, classes].
        samples: pictures and the true boxes.
        size: side of the canvas.
        classes: how many there are.
        score_threshold, iou_threshold: of the selection; low and lenient, as usual for AP.
    """
    found: list[tuple[int, int, float, tuple[float, ...]]] = []
    for batch, images, indices in canvases(samples, size):
        with torch.inference_mode():
            boxes, scores = module(batch)
            kept = box_ops.select(
                boxes,
                scores,
                score_threshold=score_threshold,
                iou_threshold=iou_threshold,
                max_detections=100,
            )
        for place, (index, image) in enumerate(zip(indices, images, strict=True)):
            mine = kept.images == place
            undone = letterbox(image, size, size)[1].undo_boxes(kept.boxes[mine])
            rows = zip(kept.classes[mine].tolist(), kept.scores[mine].tolist(), undone.tolist(), strict=True)
            found += [(index, kind, score, tuple(box)) for kind, score, box in rows]
    return precision(samples, found, classes)


def precision(
    samples: Sequence[Sample], found: Sequence[tuple[int, int, float, tuple[float, ...]]], classes: int
) -> Precision:
    """COCO's figures of detections: index of the sample, class, score, xyxy box in the picture's pixels."""
    annotations: list[dict[str, object]] = []
    pictures = []
    for index, sample in enumerate(samples):
        width, height = sample.size
        pictures.append({"id": index + 1, "width": width, "height": height})
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
            "images": pictures,
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
