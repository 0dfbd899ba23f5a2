"""The pipeline that all detectors share: letterbox, network, one NMS a batch, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import boxes as box_ops
from models.detection.result import Detection, Detections, DetectOptions
from models.errors import ECHO, ParameterInvalid
from models.image import Image, Letterbox, Pixels, letterbox
from models.options import check_range
from models.pipeline import Build, Card, Pipeline, Prepared, check_tensor


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """Options that the builders of detectors share: what a request that names none gets.

    Attributes:
        score_threshold: 0 to 1.
        iou_threshold: 0 to 1.

    Raises:
        ValueError: a value out of its range.
    """

    score_threshold: float = 0.25
    iou_threshold: float = 0.5

    def __post_init__(self) -> None:
        check_range("score_threshold", self.score_threshold, 0, 1)
        check_range("iou_threshold", self.iou_threshold, 0, 1)


@dataclass(frozen=True, slots=True)
class DetectContext:
    """What `DetectorPipeline.postprocess` needs of one request: its geometry, its limits, its classes."""

    geometry: Letterbox
    score_threshold: float
    iou_threshold: float
    max_detections: int
    classes: tuple[int, ...] | None


class DetectorPipeline(Pipeline):
    """Pipeline of any detector (see `models.pipeline.Pipeline`).

    Args:
        card: the public card; its `labels` name the classes and its `input` is the canvas's height and width.
        build: of uint8 Tensor[N, H, W, 3], RGB -> boxes Tensor[N, A, 4] (xyxy, canvas pixels), scores
            Tensor[N, A, C], 0 to 1.
        options: what a request gets that names none.
        fill: grey of the letterbox's margins.
        canvases: heights and widths of canvases besides the card's; an image lies on the one that shows it
            largest, the card's where several do.
    """

    takes_pixels = True

    def __init__(
        self,
        card: Card,
        build: Build,
        options: DetectorOptions | None = None,
        *,
        fill: int = 114,
        canvases: Sequence[tuple[int, int]] = (),
    ) -> None:
        if card.input is None or not card.labels:
            raise ValueError("a detector's card has a fixed input and labels")
        self.card = card
        self.build = build
        self.height, self.width = card.input
        self.canvases = (card.input, *canvases)
        self.shapes = tuple((height, width, 3) for height, width in self.canvases)
        self.min_side = max(max(canvas) for canvas in self.canvases)
        self.defaults = options or DetectorOptions()
        self.fill = fill
        self._index = {_folded(label): index for index, label in enumerate(card.labels)}
        self._index |= {label: index for index, label in enumerate(card.labels)}

    def preprocess(self, image: Image, options: DetectOptions | None = None) -> Prepared:
        """Fits one image onto the canvas and checks its options.

        Raises:
            ParameterInvalid: a class that the model does not have.
        """
        context = self._context(options)
        canvas, geometry = self.fit(image)
        return Prepared((canvas,), context(geometry))

    def fit(self, image: Image) -> tuple[Pixels, Letterbox]:
        """An image on a canvas, uint8 [H, W, 3], and where it lies there: a letterbox."""
        height, width = max(
            self.canvases, key=lambda canvas: min(canvas[0] / image.height, canvas[1] / image.width)
        )
        return letterbox(image, height, width, fill=self.fill)

    def prepare_tensor(self, pixels: NDArray[np.uint8], options: DetectOptions | None = None) -> Prepared:
        """The canvas itself, uint8 [H, W, 3] as `shapes` has it; boxes are then in its pixels.

        Raises:
            ParameterInvalid: another shape, or an option as for `preprocess`.
        """
        height, width, _ = check_tensor(pixels, self.shapes)
        return Prepared((pixels,), self._context(options)(Letterbox(1.0, 1.0, 0.0, 0.0, width, height)))

    def postprocess(
        self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[DetectContext]
    ) -> list[Detections]:
        """Boxes [N, A, 4], scores [N, A, C] -> one result a context, each with its own limits."""
        selection = box_ops.select(
            outputs[0][: len(contexts)],
            outputs[1][: len(contexts)],
            score_threshold=np.array([context.score_threshold for context in contexts]),
            iou_threshold=np.array([context.iou_threshold for context in contexts]),
            max_detections=np.array([context.max_detections for context in contexts], np.int64),
            classes=self._wanted(contexts, outputs[1].shape[2]),
        )
        ends = np.searchsorted(selection.images, np.arange(len(contexts) + 1))
        return [
            self._result(
                context, selection.boxes[start:end], selection.scores[start:end], selection.classes[start:end]
            )
            for context, (start, end) in zip(contexts, pairwise(ends), strict=True)
        ]

    def _result(
        self,
        context: DetectContext,
        found: NDArray[np.float32],
        scores: NDArray[np.float32],
        kinds: NDArray[np.int64],
    ) -> Detections:
        geometry = context.geometry
        boxes = geometry.undo_boxes(found)
        inside = box_ops.area(boxes) > 0  # what lay in the margin has nothing left
        rows = zip(boxes[inside].tolist(), scores[inside].tolist(), kinds[inside].tolist(), strict=True)
        items = tuple(
            Detection(kind, self.card.labels[kind], score, (x1, y1, x2, y2))
            for (x1, y1, x2, y2), score, kind in rows
        )
        return Detections(geometry.width, geometry.height, items)

    def _wanted(self, contexts: Sequence[DetectContext], classes: int) -> NDArray[np.bool_] | None:
        if all(context.classes is None for context in contexts):
            return None
        wanted = np.zeros((len(contexts), classes), np.bool_)
        for row, context in zip(wanted, contexts, strict=True):
            row[slice(None) if context.classes is None else list(context.classes)] = True
        return wanted

    def _context(self, options: DetectOptions | None) -> Callable[[Letterbox], DetectContext]:
        """Checks the options before any pixel is moved; what is left to give is the geometry."""
        options = options or DetectOptions()
        score, overlap = options.score_threshold, options.iou_threshold
        classes = None if options.classes is None else self._classes(options.classes)
        return partial(
            DetectContext,
            score_threshold=self.defaults.score_threshold if score is None else score,
            iou_threshold=self.defaults.iou_threshold if overlap is None else overlap,
            max_detections=options.max_detections,
            classes=classes,
        )

    def _classes(self, names: tuple[str, ...]) -> tuple[int, ...]:
        found = [self._index.get(name, self._index.get(_folded(name))) for name in names]
        unknown = [name for name, index in zip(names, found, strict=True) if index is None]
        if unknown or not names:
            what = f"unknown: {', '.join(unknown)[:ECHO]}" if unknown else "none given"
            raise ParameterInvalid("classes", f"classes must be labels of {self.card.name}; {what}")
        return tuple(index for index in found if index is not None)


def _folded(name: str) -> str:
    """A class's name without what its writer may vary: case, and the number of spaces."""
    return " ".join(name.casefold().split())
