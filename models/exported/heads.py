"""How the outputs of exported detectors are read: every layout becomes boxes and scores.

The layouts are those of the exporters' own documentation and code: YOLOv5 and YOLOv7 (`export.py`; v7 with
``--grid``), Ultralytics (v8, v9, v11, v12; https://docs.ultralytics.com/guides/end2end-detection for v10 and
YOLO26), YOLOX (`yolox/utils/demo_utils.py`), DETR and RT-DETR (transformers, Ultralytics, RF-DETR).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.boxes import CANDIDATES
from models.exported.options import ExportedDetectorOptions

Shape = tuple[int | None, ...]
"""Of an output, without the batch; None where it varies."""

Floats = NDArray[np.floating[Any]]


def corners(boxes: Floats) -> Floats:
    """[..., 4]: x, y of the centre, width, height -> xyxy."""
    half = boxes[..., 2:] / 2
    return np.concatenate((boxes[..., :2] - half, boxes[..., :2] + half), -1)


def sigmoid(logits: Floats) -> Floats:
    """Elementwise; the exponential does not overflow."""
    odds: Floats = 1 / (1 + np.exp(-logits.clip(-80, 80)))
    return odds


def softmax(logits: Floats) -> Floats:
    """Over the last dimension."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Floats = powers / powers.sum(-1, keepdims=True)
    return shares


class Head(ABC):
    """Reads the outputs of one kind of detector.

    Args:
        height, width: of the network's input.
        classes: number of labels, without a background.
        options: of the entry.

    Attributes:
        suppress: whether boxes of one object may be several, so that they need non-maximum suppression.
        units, background, activation: what the empty options of these names mean.
    """

    suppress: ClassVar[bool] = True
    units: ClassVar[str] = "pixels"
    background: ClassVar[str] = "none"
    activation: ClassVar[str] = "none"

    def __init__(self, height: int, width: int, classes: int, options: ExportedDetectorOptions) -> None:
        self.height, self.width, self.classes = height, width, classes
        self._background = options.background or self.background
        self._activation = options.activation or self.activation
        self._corners = options.corners
        self._normalized = (options.boxes or self.units) == "normalized"
        self.logits = classes + (self._background != "none")

    @property
    @abstractmethod
    def layout(self) -> str:
        """What it expects, for messages."""

    @abstractmethod
    def fits(self, shapes: Sequence[Shape]) -> bool:
        """Whether it can read outputs of these shapes, in their order."""

    @abstractmethod
    def read(self, outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Outputs -> boxes [N, A, 4], xyxy in the head's units, scores [N, A, classes], 0..1.

        A score of -1 is none.
        """

    def order(self, names: Sequence[str], shapes: Sequence[Shape]) -> tuple[int, ...]:
        """Which outputs of a file it reads, in its order, where the catalogue does not say; the first one."""
        return (0,)

    def decode(self, outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Outputs -> float32 boxes [N, K, 4], xyxy in input pixels, scores [N, K, classes].

        K is at most `models.boxes.CANDIDATES`: the boxes whose best class scores highest.
        """
        boxes, scores = self.read([output.astype(np.float32, copy=False) for output in outputs])
        if boxes.shape[1] > CANDIDATES:
            best = np.argpartition(-scores.max(2), CANDIDATES - 1, axis=1)[:, :CANDIDATES, None]
            boxes, scores = np.take_along_axis(boxes, best, 1), np.take_along_axis(scores, best, 1)
        if self._normalized:
            boxes = boxes * np.array([self.width, self.height, self.width, self.height], np.float32)
        return boxes, scores

    def _scores(self, logits: Floats) -> Floats:
        """[..., logits] -> scores [..., classes]."""
        if self._activation == "softmax":
            logits = softmax(logits)
        elif self._activation == "sigmoid":
            logits = sigmoid(logits)
        first = 1 if self._background == "first" else 0
        return logits[..., first : first + self.classes]


class YoloV5(Head):
    """x, y, w, h of the centre, objectness, classes; all activated in the network."""

    @property
    def layout(self) -> str:
        return f"one output [N, boxes, {5 + self.logits}] (x, y, w, h, objectness, classes)"

    def fits(self, shapes: Sequence[Shape]) -> bool:
        return len(shapes[0]) == 2 and shapes[0][1] == 5 + self.logits

    def read(self, outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
        rows = outputs[0]
        return corners(rows[..., :4]), self._scores(rows[..., 5:]) * rows[..., 4:5]


class YoloV8(Head):
    """x, y, w, h of the centre and classes, one column a box: channels first, no objectness."""

    @property
    def layout(self) -> str:
        return f"one output [N, {4 + self.logits}, boxes] (x, y, w, h, classes)"

    def fits(self, shapes: Sequence[Shape]) -> bool:
        return len(shapes[0]) == 2 and shapes[0][0] == 4 + self.logits

    def read(self, outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
        rows = outputs[0].transpose(0, 2, 1)
        return corners(rows[..., :4]), self._scores(rows[..., 4:])


class EndToEnd(Head):
    """x1, y1, x2, y2, score, class of the boxes that are left: YOLOv10, YOLO26, exports with ``nms=True``."""

    suppress = False

    @property
    def layout(self) -> str:
        return "one output [N, boxes, 6] (x1, y1, x2, y2, score, class)"

    def fits(self, shapes: Sequence[Shape]) -> bool:
        return len(shapes[0]) == 2 and shapes[0][1] == 6

    def read(self, outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
        rows = outputs[0]
        kinds = np.nan_to_num(rows[..., 5], nan=-1).round().clip(-1, self.classes).astype(np.int64)
        known = (kinds >= 0) & (kinds < self.classes)
        best = np.where(known, rows[..., 4], np.float32(-1))
        scores = np.full((*rows.shape[:2], self.classes), -1, np.float32)  # under every threshold, also 0
        np.put_along_axis(scores, kinds.clip(0, self.classes - 1)[..., None], best[..., None], 2)
        return rows[..., :4], scores


class YoloX(Head):
    """As YOLOv5, but x, y, w, h are offsets in cells and logarithms of sizes: exports without
    ``--decode_in_inference``; those with it are read by ``yolov5``."""

    @property
    def layout(self) -> str:
        return f"one output [N, {self._cells((8, 16, 32))}, {5 + self.logits}] (raw x, y, w, h, ...)"

    def _cells(self, strides: Sequence[int]) -> int:
        return sum((self.height // stride) * (self.width // stride) for stride in strides)

    def _strides(self, boxes: int | None) -> tuple[int, ...] | None:
        for strides in ((8, 16, 32), (8, 16, 32, 64)):
            if self._cells(strides) == boxes:
                return strides
        return None

    def fits(self, shapes: Sequence[Shape]) -> bool:
        shape = shapes[0]
        return len(shape) == 2 and shape[1] == 5 + self.logits and self._strides(shape[0]) is not None

    def read(self, outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
        rows = outputs[0]
        cells, sizes = [], []
        for stride in self._strides(rows.shape[1]) or ():
            y, x = np.indices((self.height // stride, self.width // stride), np.float32).reshape(2, -1)
            cells.append(np.stack((x, y), 1))
            sizes.append(np.full((x.size, 1), stride, np.float32))
        stride_of = np.concatenate(sizes)
        centres = (rows[..., :2] + np.concatenate(cells)) * stride_of
        extents = np.exp(np.minimum(rows[..., 2:4], 10)) * stride_of  # an untrained one must not be infinite
        boxes = corners(np.concatenate((centres, extents), -1))
        return boxes, self._scores(rows[..., 5:]) * rows[..., 4:5]


class Pair(Head):
    """Two outputs: boxes [N, boxes, 4] and class scores [N, boxes, classes]."""

    @property
    def layout(self) -> str:
        return f"two outputs, [N, boxes, 4] and [N, boxes, {self.logits}]"

    def order(self, names: Sequence[str], shapes: Sequence[Shape]) -> tuple[int, ...]:
        """By name first, since three classes and a background have as many columns as a box."""
        boxes = [index for index, name in enumerate(names) if "box" in name.lower() or name == "dets"]
        if len(boxes) != 1:
            boxes = [index for index, shape in enumerate(shapes) if shape[-1:] == (4,)]
        rest = [index for index, shape in enumerate(shapes) if index not in boxes and len(shape) == 2]
        return (boxes[0], rest[0]) if len(boxes) == 1 and len(rest) == 1 else ()

    def fits(self, shapes: Sequence[Shape]) -> bool:
        return (
            len(shapes) == 2
            and all(len(shape) == 2 for shape in shapes)
            and shapes[0][0] == shapes[1][0]
            and shapes[0][1] == 4
            and shapes[1][1] == self.logits
        )

    def read(self, outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
        boxes = outputs[0]
        if self._corners == "yxyx":
            boxes = boxes[..., [1, 0, 3, 2]]
        elif self._corners == "cxcywh":
            boxes = corners(boxes)
        return boxes, self._scores(outputs[1])


class Ssd(Pair):
    """Decoded boxes and scores of an SSD: normalised corners, the first class the background."""

    units = "normalized"
    background = "first"


class Detr(Pair):
    """Queries: normalised centres and sizes, logits with "no object" as the last class."""

    suppress = False
    units = "normalized"
    background = "last"
    activation = "softmax"

    def __init__(self, height: int, width: int, classes: int, options: ExportedDetectorOptions) -> None:
        super().__init__(height, width, classes, options)
        self._corners = "cxcywh"


class RtDetr(Detr):
    """Queries as of DETR, with a sigmoid for each class and no "no object"; Ultralytics has them in one
    output, the scores activated."""

    background = "none"
    activation = "sigmoid"

    @property
    def layout(self) -> str:
        return f"{super().layout}, or one [N, boxes, {4 + self.logits}]"

    def order(self, names: Sequence[str], shapes: Sequence[Shape]) -> tuple[int, ...]:
        return (0,) if len(shapes) == 1 else super().order(names, shapes)

    def fits(self, shapes: Sequence[Shape]) -> bool:
        if len(shapes) == 1:
            return len(shapes[0]) == 2 and shapes[0][1] == 4 + self.logits
        return super().fits(shapes)

    def read(self, outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
        if len(outputs) == 1:
            rows = outputs[0]
            return corners(rows[..., :4]), rows[..., 4 : 4 + self.classes]
        return super().read(outputs)


HEADS: dict[str, type[Head]] = {
    "yolov5": YoloV5,
    "yolov7": YoloV5,
    "yolov8": YoloV8,
    "yolov10": EndToEnd,
    "yolo26": EndToEnd,
    "end2end": EndToEnd,
    "yolox": YoloX,
    "ssd": Ssd,
    "detr": Detr,
    "rtdetr": RtDetr,
}
"""Name, as a catalogue's `head` has it, -> how its outputs are read."""
