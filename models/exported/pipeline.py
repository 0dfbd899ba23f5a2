"""The builder ``export``: a file of any exporter, with what the catalogue says of it, as a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from models.checkpoint import read_labels
from models.classification.pipeline import ClassifierPipeline, ClassifyContext
from models.classification.result import Classification
from models.detection.pipeline import DetectContext, DetectorOptions, DetectorPipeline
from models.detection.result import Detections
from models.errors import WeightsError
from models.exported.fit import fit, min_side
from models.exported.heads import HEADS, Head, softmax
from models.exported.input import Input, Outputs, resolve, shown
from models.exported.module import ExportedModule
from models.exported.network import Network
from models.exported.opener import open_network
from models.exported.options import (
    ExportedClassifierOptions,
    ExportedDetectorOptions,
    ExportedEmbedderOptions,
    InputOptions,
)
from models.faces.embedder import EmbedderPipeline
from models.faces.result import Embedding
from models.image import Image, Letterbox, Pixels
from models.options import check_choice, read_options
from models.pipeline import Card, FaceSpace, Kind, Template

if TYPE_CHECKING:
    from models.weights import Entry

E = TypeVar("E", bound="ExportedClassifier | ExportedDetector | ExportedEmbedder")

ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Where insightface puts the landmarks in a crop of 112 pixels (`arcface_dst` of its `face_align.py`),
counted from the centre of the first pixel."""


def _labels(options: Any, files: Mapping[str, Path]) -> tuple[str, ...]:
    if options.labels and "labels" in files:
        raise WeightsError("options.labels and files.labels are both given")
    labels = options.labels or (read_labels(files["labels"]) if "labels" in files else ())
    if not labels:
        raise WeightsError("options.labels (a list) or files.labels (a file, one a line) is missing")
    return tuple(labels)


class ExportedClassifier(ClassifierPipeline):
    """As every classifier, but for the softmax, which is here where the network has none.

    Args:
        reads: the outputs with the scores and, where there are any, the features.
        resizing: how an image is made to fit.
        softmax: whether the scores are logits.
        options: as of every classifier.
    """

    def __init__(
        self,
        card: Card,
        module: ExportedModule,
        crop: Any,
        *,
        reads: Sequence[int],
        resizing: InputOptions,
        softmax: bool,
        **options: Any,
    ) -> None:
        super().__init__(card, lambda: module, crop, **options)
        self._reads, self._resizing, self._softmax = reads, resizing, softmax

    explainable = False  # a graph has no layers to look at, and no gradients

    def region(self, image: Image) -> tuple[float, float, float, float]:
        """What the network sees, xyxy in pixels of the upright original; may reach beyond it."""
        assert self.card.input is not None  # noqa: S101 (of every classifier)
        height, width = self.card.input
        corners = fit(image, height, width, self._resizing)[1].undo_points(
            np.array([[0, 0], [width, height]], np.float64)
        )
        (left, top), (right, bottom) = corners.tolist()
        return left, top, right, bottom

    def postprocess(
        self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[ClassifyContext]
    ) -> list[Classification]:
        """The network's outputs -> one result a context."""
        scores, *features = (_rows(outputs[index]) for index in self._reads)
        return super().postprocess((softmax(scores) if self._softmax else scores, *features), contexts)


class ExportedDetector(DetectorPipeline):
    """As every detector, but for its outputs, which a head reads, and for how an image is made to fit."""

    def __init__(
        self,
        card: Card,
        module: ExportedModule,
        head: Head,
        reads: Sequence[int],
        options: ExportedDetectorOptions,
    ) -> None:
        overlap = options.iou_threshold
        if overlap is None:
            overlap = 0.5 if head.suppress else 1.0
        super().__init__(card, lambda: module, DetectorOptions(options.score_threshold, overlap))
        self._head, self._reads, self._options = head, tuple(reads), options
        self.min_side = min_side(self.height, self.width, options)

    def fit(self, image: Image) -> tuple[Pixels, Letterbox]:
        """As the catalogue says."""
        return fit(image, self.height, self.width, self._options)

    def postprocess(
        self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[DetectContext]
    ) -> list[Detections]:
        """The network's outputs -> one result a context."""
        rows = [outputs[index][: len(contexts)] for index in self._reads]
        return super().postprocess(self._head.decode(rows), contexts)


class ExportedEmbedder(EmbedderPipeline):
    """As every embedder of aligned faces."""

    def __init__(self, card: Card, module: ExportedModule, *, output: int, normalize: bool) -> None:
        super().__init__(card, lambda: module)
        self._output, self._normalize = output, normalize

    def postprocess(self, outputs: tuple[NDArray[Any], ...], contexts: Sequence[Any]) -> list[Embedding]:
        """The network's outputs -> one embedding a context."""
        vectors = _rows(outputs[self._output])
        if self._normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return super().postprocess((vectors,), contexts)


def _rows(output: NDArray[Any]) -> NDArray[np.float32]:
    """[N, ...] -> float32 [N, D]."""
    return output.reshape(len(output), -1).astype(np.float32, copy=False)


def build(
    entry: Entry, files: Mapping[str, Path]
) -> ExportedClassifier | ExportedDetector | ExportedEmbedder:
    """The builder ``export``; options as in `models.exported.options`, by the entry's task.

    Files:
        weights: a `torch.export` archive, TorchScript or ONNX.
        labels (optional): class names, one a line.

    Raises:
        WeightsError: the file cannot be served, or is another thing than the catalogue says; names the key.
    """
    match entry.task:
        case Kind.CLASSIFY:
            return _classifier(entry, files)
        case Kind.DETECT:
            return _detector(entry, files)
        case Kind.EMBED:
            return _embedder(entry, files)
    raise WeightsError(f"task is {entry.task}, but an exported network may classify, detect or embed")


def _finished(pipeline: E, network: Network, given: Input, module: ExportedModule) -> E:
    """What the executors are told."""
    pipeline.convert = module.openvino
    pipeline.layered = False
    pipeline.batch = given.batch
    pipeline.exportable = network.capturable
    pipeline.runtime = "onnxruntime" if network.format == "ONNX" else "torch"
    return pipeline


def _opened(
    files: Mapping[str, Path], options: InputOptions
) -> tuple[Network, Input, Outputs, ExportedModule, dict[str, Any]]:
    """What all three kinds of pipeline begin with; last the card's details."""
    network = open_network(files["weights"])
    given = resolve(network, options)
    outputs = Outputs(network, given, options)
    details: dict[str, Any] = {
        "format": network.format,
        **network.details,
        "network_input": f"{given.dtype} {shown((given.batch or None, *given.item))} {options.colour}",
        "resize": options.resize,
    }
    if given.batch:
        details["batch"] = f"always {given.batch}; a smaller one is padded"
    return network, given, outputs, ExportedModule(network, given, options), details


def _classifier(entry: Entry, files: Mapping[str, Path]) -> ExportedClassifier:
    options = read_options(ExportedClassifierOptions, entry.options)
    network, given, outputs, module, details = _opened(files, options)
    index, classes = outputs.vector()
    reads: tuple[int, ...] = (index,)
    length = None
    if options.features:
        also, length = outputs.vector(outputs.index(options.features, "features"))
        reads = (index, also)
    labels = _labels(options, files)
    if len(labels) != classes:
        raise WeightsError(
            f"{len(labels)} labels, but the network has {classes} classes ({outputs.described()})"
        )
    card = entry.card(
        Kind.CLASSIFY,
        labels=labels,
        input=(given.height, given.width),
        details=details | {"scores": options.scores},
    )

    def crop(image: Image) -> Pixels:
        return _channels(fit(image, given.height, given.width, options)[0], given.channels)

    pipeline = ExportedClassifier(
        card,
        module,
        crop,
        min_side=min_side(given.height, given.width, options),
        channels=given.channels,
        features=length,
        reads=reads,
        resizing=options,
        softmax=options.scores == "logits",
    )
    return _finished(pipeline, network, given, module)


def _channels(pixels: Pixels, channels: int) -> Pixels:
    if channels == 3:
        return pixels
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)[..., None]


def _detector(entry: Entry, files: Mapping[str, Path]) -> ExportedDetector:
    options = read_options(ExportedDetectorOptions, entry.options)
    try:
        check_choice("head", options.head, tuple(HEADS))
    except ValueError as error:
        raise WeightsError(str(error)) from error
    network, given, outputs, module, details = _opened(files, options)
    if given.channels != 3:
        raise WeightsError("options.colour is grey, but detectors take three channels")
    labels = _labels(options, files)
    head = HEADS[options.head](given.height, given.width, len(labels), options)
    reads = outputs.asked or head.order(outputs.names, outputs.shapes)
    if not reads or not head.fits([outputs.shapes[index] for index in reads]):
        raise WeightsError(
            f"options.head is {options.head}, which with {len(labels)} labels expects {head.layout}; "
            f"the file has {outputs.described()}"
        )
    card = entry.card(
        Kind.DETECT,
        labels=labels,
        input=(given.height, given.width),
        details=details | {"head": options.head},
    )
    return _finished(ExportedDetector(card, module, head, reads, options), network, given, module)


def _embedder(entry: Entry, files: Mapping[str, Path]) -> ExportedEmbedder:
    options = read_options(ExportedEmbedderOptions, entry.options)
    network, given, outputs, module, details = _opened(files, options)
    index, dimensions = outputs.vector()
    if given.height != given.width or given.channels != 3:
        raise WeightsError(f"the input is {shown(given.item)}, but crops of faces are square and in colour")
    space = FaceSpace(dimensions, options.threshold, template(given.height, options), options.metric)
    details |= {"dimensions": dimensions, "metric": options.metric, "threshold": options.threshold}
    card = entry.card(Kind.EMBED, input=(given.height, given.width), details=details)
    pipeline = ExportedEmbedder(
        replace(card, face_space=space), module, output=index, normalize=options.normalize
    )
    return _finished(pipeline, network, given, module)


def template(side: int, options: ExportedEmbedderOptions) -> Template:
    """Where the landmarks lie in a crop.

    Raises:
        WeightsError: the template is not made for such a side.
    """
    if not options.template:
        flat = options.landmarks
        return Template(side, tuple(zip(flat[::2], flat[1::2], strict=True)))
    if side % 112 == 0:
        ratio, shift = side / 112, 0.0
    elif side % 128 == 0:  # as wide as the crop of 112, in the middle
        ratio, shift = side / 128, 8.0 * side / 128
    else:
        raise WeightsError(
            f"options.template is arcface, for sides of 112 or 128 times a whole number, not {side}: "
            'set template = "" and options.landmarks'
        )
    # this project counts from the corner of the first pixel
    return Template(side, tuple((x * ratio + shift + 0.5, y * ratio + 0.5) for x, y in ARCFACE))
