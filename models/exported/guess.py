"""What an exported file probably is: the start of a catalogue entry, to be checked against a photo."""

from __future__ import annotations

import ast
import contextlib
from dataclasses import dataclass, field
from typing import Any

from models.errors import WeightsError
from models.exported.input import likely_layout
from models.exported.network import Network, Shape
from models.pipeline import Kind

_SIDES = (224, 640, 112, 416, 320, 512, 256, 384, 299)
"""Tried in this order where a file says no size."""

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclass(slots=True)
class Guess:
    """A guess.

    Attributes:
        task: what the network is for.
        options: of the entry, without labels.
        classes: number of labels; 0 for an embedder.
        remarks: why, and what is not known.
        labels: names that the exporter wrote into the file.
        outputs: shapes with the batch, as the guess saw them.
    """

    task: Kind
    options: dict[str, Any]
    classes: int
    remarks: list[str]
    labels: list[str] = field(default_factory=list)
    outputs: list[Shape] = field(default_factory=list)


def guess(network: Network, task: Kind | None = None, given: dict[str, Any] | None = None) -> Guess:
    """Guesses from shapes, names and metadata.

    Args:
        network: an open file.
        task: what it is for, if that is known.
        given: options that are known, such as the size of a TorchScript file.

    Raises:
        WeightsError: no size of image is known, or outputs that no task reads.
    """
    given = given or {}
    options, shapes = _input(network, given)
    labels = [str(name) for name in given.get("labels", [])] or _names(network.metadata.get("names", ""))
    rows = [shape[1:] for shape in shapes]
    names = [info.name for info in network.outputs]
    flat = [[size for size in row if size != 1] for row in rows]
    if len(flat[0]) == 1 and task is not Kind.DETECT:
        made = _vector(int(flat[0][0] or 0), options, task)
    else:
        made = _detector(rows, names, options, len(labels))
    made.outputs = shapes
    if len(labels) == made.classes or "labels" in given:
        made.labels = labels
    elif labels:
        made.remarks.append(f"the file names {len(labels)} classes, which does not fit")
    made.options |= {key: value for key, value in given.items() if key != "labels"}
    return made


def _input(network: Network, given: dict[str, Any]) -> tuple[dict[str, Any], list[Shape]]:
    """Size, layout, type and batch where they must be said, and the shapes of the outputs."""
    info = network.inputs[0]
    options: dict[str, Any] = {}
    shape = info.shape
    layout = given.get("layout") or likely_layout(shape)
    channels: int | None = 1 if given.get("colour") == "grey" else 3
    sides: tuple[int | None, int | None] = (None, None)
    batch: int | None = None
    if shape is not None and len(shape) == 4:
        batch = shape[0]
        channels, *rest = (
            (shape[1], shape[2], shape[3]) if layout == "nchw" else (shape[3], shape[1], shape[2])
        )
        sides = (rest[0], rest[1])
        if channels == 1:
            options["colour"] = "grey"
    dtype = given.get("dtype") or info.dtype or "float32"
    tries = [tuple(given["size"])] if "size" in given else [sides] if None not in sides else []
    tries = tries or _written(network) or [(side, side) for side in _SIDES]
    for height, width in tries:
        item = (channels or 3, height, width) if layout == "nchw" else (height, width, channels or 3)
        for rows in (given.get("batch") or batch or 2, 1):
            with contextlib.suppress(WeightsError):
                shapes = network.output_shapes(rows, item, dtype)
                if all(one[:1] in ((rows,), (None,)) for one in shapes):
                    if rows == 1 and batch is None:
                        options["batch"] = 1
                    return {"size": [height, width], **options}, shapes
    raise WeightsError(f"it takes no images of {', '.join(str(list(one)) for one in tries)}: give size")


def _written(network: Network) -> list[tuple[int, int]]:
    """The size that Ultralytics writes beside the network."""
    with contextlib.suppress(ValueError, SyntaxError):
        height, width = ast.literal_eval(network.metadata.get("imgsz", ""))
        return [(int(height), int(width))]
    return []


def _names(text: str) -> list[str]:
    """Ultralytics' `names`: a dictionary by index, as Python writes it."""
    with contextlib.suppress(ValueError, SyntaxError):
        found = ast.literal_eval(text)
        values = list(found.values()) if isinstance(found, dict) else found
        if isinstance(values, list):
            return [str(value) for value in values]
    return []


def _vector(length: int, options: dict[str, Any], task: Kind | None) -> Guess:
    side = options["size"][0]
    if task is Kind.EMBED or (task is None and side in (112, 128) and length in (128, 256, 512)):
        more = {"scale": 1.0, "mean": [127.5], "std": [127.5], "metric": "cosine", "threshold": 0.6}
        remarks = [
            "an embedder of aligned faces, normalised as insightface does",
            "threshold is a placeholder: choose it on pairs of your own",
        ]
        made = Guess(Kind.EMBED, options | more, 0, remarks)
        if side % 112 and side % 128:
            made.options |= {"template": "", "landmarks": [0.0] * 10}
            made.remarks.append("landmarks: where the five points lie in a crop")
        return made
    remark = "a classifier, normalised as torchvision and timm do for ImageNet; scores may be probabilities"
    if options.get("colour") == "grey":
        return Guess(Kind.CLASSIFY, options, length, [remark])
    more = {"resize": "crop", "fraction": 0.875, **IMAGENET, "scores": "logits"}
    return Guess(Kind.CLASSIFY, options | more, length, [remark])


def _detector(rows: list[Shape], names: list[str], options: dict[str, Any], known: int) -> Guess:
    height, width = options["size"]
    cells = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    more: dict[str, Any] = {"resize": "letterbox"}
    pair = [row for row in rows if len(row) == 2]
    if len(pair) >= 2:
        boxes = [index for index, name in enumerate(names) if "box" in name.lower() or name == "dets"]
        boxes = boxes or [index for index, row in enumerate(rows) if row[-1:] == (4,)]
        if len(boxes) == 1 and len(rows) == 2:
            scores = rows[1 - boxes[0]]
            columns, queries = int(scores[-1] or 0), int(scores[0] or 0)
            if queries > 1000:
                return Guess(Kind.DETECT, options | more | {"head": "ssd"}, columns - 1, ["boxes and scores"])
            head = "rtdetr" if queries == 300 or columns == known else "detr"
            classes = columns if head == "rtdetr" else columns - 1
            more = {"resize": "stretch", **IMAGENET, "head": head}
            return Guess(Kind.DETECT, options | more, classes, [f"{queries} queries with normalised boxes"])
    if len(rows) != 1 or len(rows[0]) != 2:
        raise WeightsError(
            f"outputs {', '.join(str(list(row)) for row in rows)} are of no head that is known"
        )
    first, second = (0 if size is None else size for size in rows[0])
    if second == 6 and first != cells and first <= 1000:
        remark = "boxes after suppression (YOLOv10, YOLO26, nms=True)"
        return Guess(Kind.DETECT, options | more | {"head": "end2end"}, known or 80, [remark])
    if first < second and first > 4:
        remark = "channels first, no objectness (YOLOv8, v9, v11, v12)"
        return Guess(Kind.DETECT, options | more | {"head": "yolov8"}, first - 4, [remark])
    if first == cells and second > 5:
        more = {"resize": "letterbox-corner", "colour": "bgr", "scale": 1.0, "head": "yolox"}
        remark = (
            "one box a cell, with objectness (YOLOX): BGR bytes as they are; decoded in the network: yolov5"
        )
        return Guess(Kind.DETECT, options | more, second - 5, [remark])
    if first <= 1000 and second > 4:
        remark = "queries with normalised boxes and scores in one output (RT-DETR of Ultralytics)"
        more = {"resize": "stretch", "head": "rtdetr"}
        return Guess(Kind.DETECT, options | more, second - 4, [remark])
    if second > 5:
        remark = "boxes with objectness (YOLOv5, YOLOv7)"
        return Guess(Kind.DETECT, options | more | {"head": "yolov5"}, second - 5, [remark])
    raise WeightsError(f"an output {list(rows[0])} is of no head that is known")
