"""The builder ``export``: a file of any exporter, with what the catalogue says of it, as a pipeline."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.checkpoint import read_labels
from models.classification.pipeline import ClassifierPipeline, ClassifyContext
from models.classification.result import Classification
from models.detection.pipeline import DetectContext, DetectorPipeline
from models.detection.result import Detections
from models.errors import WeightsError
from models.exported.fit import fit, min_side
from models.exported.heads import HEADS, Head
from models.exported.network import Network, Shape, flatten
from models.exported.options import (
    CHANNELS,
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


def open_network(path: Path) -> Network:
    """Reads an exported file, of whichever kind its bytes say.

    Raises:
        WeightsError: it is of none, a pickle, or cannot be served; says what was found.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    except (OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path.name} cannot be read: {error}") from error
    members = {name.partition("/")[2] for name in names}
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        from models.exported.script import ScriptNetwork

        return ScriptNetwork(path)
    if any(name.startswith("models/") for name in members):
        from models.exported.program import ProgramNetwork

        return ProgramNetwork(path)
    if "data.pkl" in members or head[:1] == b"\x80":
        raise WeightsError(
            f"{path.name} is a pickle (of torch.save), which is not loaded: export the network with "
            "torch.export, torch.jit or torch.onnx"
        )
    if head[8:9] == b"{":
        raise WeightsError(
            f"{path.name} is safetensors: tensors without a network; a builder of that network reads it, "
            "such as torchvision_classifier"
        )
    if names:
        raise WeightsError(f"{path.name} is a zip archive of neither torch.export nor TorchScript")
    from models.exported.onnx import OnnxNetwork

    return OnnxNetwork(path)


@dataclass(frozen=True, slots=True)
class Input:
    """A network's input, from the file and the catalogue together.

    Attributes:
        height, width, channels: of an image.
        layout: ``nchw`` or ``nhwc``.
        dtype: of its elements.
        batch: 0: any number of images.
    """

    height: int
    width: int
    channels: int
    layout: str
    dtype: str
    batch: int

    @property
    def item(self) -> tuple[int, int, int]:
        """An image's shape as the network has it."""
        if self.layout == "nchw":
            return self.channels, self.height, self.width
        return self.height, self.width, self.channels


def resolve(network: Network, options: InputOptions) -> Input:
    """The network's input.

    Raises:
        WeightsError: the catalogue says another thing than the file, or neither says it; names the key.
    """
    info, channels = network.inputs[0], CHANNELS[options.colour]
    shape = info.shape
    if shape is not None and len(shape) != 4:
        raise WeightsError(f"the input {info.name!r} is {_shown(shape)}, not of four dimensions (images)")
    layout = options.layout
    if not layout:
        last = shape is not None and shape[3] in (1, 3) and shape[1] not in (1, 3)
        layout = "nhwc" if last else "nchw"
    order = (0, 2, 3, 1) if layout == "nchw" else (0, 1, 2, 3)
    batch, height, width, depth = (None,) * 4 if shape is None else tuple(shape[index] for index in order)
    if depth not in (None, channels):
        raise WeightsError(
            f"options.colour is {options.colour} ({channels} channels), but the input {info.name!r} is "
            f"{_shown(shape)} ({layout}: {depth} channels)"
        )
    sides = options.size or (height, width)
    if None in sides:
        raise WeightsError("options.size is missing, [height, width]: the file does not say it")
    for said, asked in ((height, sides[0]), (width, sides[1])):
        if said not in (None, asked):
            raise WeightsError(
                f"options.size is {list(options.size)}, but the input {info.name!r} is {_shown(shape)}"
            )
    dtype = options.dtype or info.dtype or "float32"
    if info.dtype not in ("", dtype):
        raise WeightsError(f"options.dtype is {dtype}, but the input {info.name!r} is {info.dtype}")
    check = replace(options, dtype=dtype) if dtype in ("float32", "float16", "uint8") else None
    if check is None:
        raise WeightsError(f"the input {info.name!r} is {dtype}, not float32, float16 or uint8")
    if dtype == "uint8" and (options.scale, *options.mean, *options.std) != (255.0, 0.0, 1.0):
        raise WeightsError("options.scale, mean and std do not apply: the network takes uint8")
    if options.batch and batch not in (None, options.batch):
        raise WeightsError(
            f"options.batch is {options.batch}, but the input {info.name!r} is {_shown(shape)}"
        )
    return Input(int(sides[0] or 0), int(sides[1] or 0), channels, layout, dtype, options.batch or batch or 0)


def _shown(shape: Sequence[int | None] | None) -> str:
    return "unknown" if shape is None else f"[{', '.join('N' if n is None else str(n) for n in shape)}]"


class ExportedModule(nn.Module):
    """A network with its normalisation before it: uint8 Tensor[N, H, W, C], RGB -> its outputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, given: Input, options: InputOptions) -> None:
        super().__init__()
        self._source, self._input, self._options = network, given, options
        self._network: nn.Module | None = None
        self.register_buffer("mean", torch.tensor(options.mean) * options.scale, persistent=False)
        self.register_buffer("std", torch.tensor(options.std) * options.scale, persistent=False)

    @property
    def network(self) -> nn.Module:
        """Made when Torch is to run it, which it is not on a CPU with OpenVINO."""
        if self._network is None:
            # not as a child: an exported graph cannot bear the other layout in memory that children get
            self.__dict__["_network"] = self._source.module()
        assert self._network is not None  # noqa: S101
        return self._network

    def to(self, *args: Any, **kwargs: Any) -> ExportedModule:
        """As every module. A layout in memory is not followed: the graph's views are of the usual one."""
        kwargs.pop("memory_format", None)
        if args or kwargs:
            super().to(*args, **kwargs)
            self.network.to(*args, **kwargs)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 Tensor[N, H, W, C], RGB or grey -> the outputs, flattened into one tuple."""
        inputs = images
        if self._options.colour == "bgr":
            inputs = inputs.flip(3)
        if self._input.dtype != "uint8":
            inputs = ((inputs.float() - self.mean) / self.std).to(getattr(torch, self._input.dtype))
        if self._input.layout == "nchw":
            inputs = inputs.permute(0, 3, 1, 2).contiguous()
        return flatten(self.network(inputs))

    def openvino(self) -> Any:
        """The same as an `openvino.Model`: uint8 [N, H, W, C] -> the outputs.

        Raises:
            WeightsError: OpenVINO cannot convert the network.
        """
        from openvino import Layout, Type
        from openvino.preprocess import PrePostProcessor

        given, options = self._input, self._options
        model = self._source.openvino(given.batch, given.item, given.dtype)
        model.reshape({0: [given.batch or -1, *given.item]})
        steps = PrePostProcessor(model)
        port = steps.input(0)
        port.tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
        port.model().set_layout(Layout(given.layout.upper()))
        if options.colour == "bgr":
            port.preprocess().reverse_channels()
        if given.dtype != "uint8":
            channels = given.channels
            # float32 also for a network of halves: the port's own type follows by itself
            port.preprocess().convert_element_type(Type.f32).mean(self.mean.expand(channels).tolist()).scale(
                self.std.expand(channels).tolist()
            )
        return steps.build()


class _Outputs:
    """Which of a network's outputs are read, and how many a batch has."""

    def __init__(self, network: Network, given: Input, options: InputOptions) -> None:
        rows = given.batch or 2
        try:
            shapes = network.output_shapes(rows, given.item, given.dtype)
        except WeightsError as error:
            if given.batch:
                raise
            raise WeightsError(
                f"{error} (options.batch is the number of images that it takes, where that is fixed)"
            ) from error
        names = [info.name for info in network.outputs] or [str(index) for index in range(len(shapes))]
        self.names = names
        self.shapes: list[Shape] = []
        for name, shape in zip(names, shapes, strict=True):
            if shape[:1] not in ((rows,), (None,)):
                raise WeightsError(
                    f"the output {name!r} is {_shown(shape)} for {rows} images, not [{rows}, ...]: set "
                    "options.batch to the number of images that the network was exported for"
                )
            self.shapes.append(shape[1:])
        self.asked: tuple[int, ...] = ()
        for wanted in options.outputs:
            index = names.index(wanted) if wanted in names else int(wanted) if wanted.isdecimal() else -1
            if not 0 <= index < len(names):
                raise WeightsError(f"options.outputs names {wanted!r}; there are: {', '.join(names)}")
            self.asked += (index,)

    def shown(self) -> str:
        """All, for messages."""
        return ", ".join(
            f"{name} {_shown((None, *shape))}" for name, shape in zip(self.names, self.shapes, strict=True)
        )

    def vector(self) -> tuple[int, int]:
        """The one output of a classifier or an embedder, and its length.

        Raises:
            WeightsError: there is none of that shape.
        """
        index = (self.asked or (0,))[0]
        shape = [size for size in self.shapes[index] if size != 1]
        if len(shape) != 1 or shape[0] is None:
            raise WeightsError(
                f"a classifier or an embedder has an output [N, length], the file has {self.shown()}"
            )
        return index, shape[0]


def _labels(options: Any, files: Mapping[str, Path]) -> tuple[str, ...]:
    if options.labels and "labels" in files:
        raise WeightsError("options.labels and files.labels are both given")
    labels = options.labels or (read_labels(files["labels"]) if "labels" in files else ())
    if not labels:
        raise WeightsError("options.labels (a list) or files.labels (a file, one a line) is missing")
    return tuple(labels)


class ExportedClassifier(ClassifierPipeline):
    """As every classifier, but for the softmax, which is here where the network has none."""

    @property
    def explainer(self) -> None:
        """A graph has no layers to look at."""
        return None

    def __init__(self, card: Card, module: ExportedModule, crop: Any, **options: Any) -> None:
        self.output: int = options.pop("output")
        self.softmax: bool = options.pop("softmax")
        super().__init__(card, module, crop, **options)

    def postprocess(
        self, outputs: tuple[Tensor, ...], contexts: Sequence[ClassifyContext]
    ) -> list[Classification]:
        """The network's outputs -> one result a context."""
        scores = outputs[self.output].flatten(1).float()
        return super().postprocess((scores.softmax(1) if self.softmax else scores,), contexts)


class ExportedDetector(DetectorPipeline):
    """As every detector, but for its outputs, which a head reads, and for how an image is made to fit."""

    def __init__(
        self, card: Card, module: ExportedModule, head: Head, reads: Sequence[int], options: InputOptions
    ) -> None:
        assert isinstance(options, ExportedDetectorOptions)  # noqa: S101
        overlap = options.iou_threshold
        super().__init__(
            card,
            module,
            score_threshold=options.score_threshold,
            iou_threshold=overlap if overlap is not None else 0.5 if head.suppress else 1.0,
        )
        self._head, self._reads, self._options = head, tuple(reads), options
        self.min_side = min_side(self.height, self.width, options)

    def fit(self, image: Image) -> tuple[Pixels, Letterbox]:
        """As the catalogue says."""
        return fit(image, self.height, self.width, self._options)

    def postprocess(self, outputs: tuple[Tensor, ...], contexts: Sequence[DetectContext]) -> list[Detections]:
        """The network's outputs -> one result a context."""
        rows = [outputs[index][: len(contexts)] for index in self._reads]
        return super().postprocess(self._head.decode(rows), contexts)


class ExportedEmbedder(EmbedderPipeline):
    """As every embedder of aligned faces."""

    def __init__(self, card: Card, module: ExportedModule, *, output: int, normalize: bool) -> None:
        super().__init__(card, module)
        self._output, self._normalize = output, normalize

    def postprocess(self, outputs: tuple[Tensor, ...], contexts: Sequence[Any]) -> list[Embedding]:
        """The network's outputs -> one embedding a context."""
        vectors = outputs[self._output].flatten(1).float()
        if self._normalize:
            vectors = nn.functional.normalize(vectors, dim=1)
        return super().postprocess((vectors,), contexts)


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
    pipeline.batch = given.batch
    pipeline.exportable = network.capturable
    pipeline.runtime = "onnxruntime" if network.format == "ONNX" else "torch"
    return pipeline


def _opened(
    files: Mapping[str, Path], options: InputOptions
) -> tuple[Network, Input, _Outputs, ExportedModule, dict[str, Any]]:
    """What all three kinds of pipeline begin with; last the card's details."""
    network = open_network(files["weights"])
    given = resolve(network, options)
    outputs = _Outputs(network, given, options)
    details: dict[str, Any] = {
        "format": network.format,
        "network_input": f"{given.dtype} {_shown((given.batch or None, *given.item))} {options.colour}",
        "resize": options.resize,
    }
    if given.batch:
        details["batch"] = f"always {given.batch}; a smaller one is padded"
    return network, given, outputs, ExportedModule(network, given, options), details


def _classifier(entry: Entry, files: Mapping[str, Path]) -> ExportedClassifier:
    options = read_options(ExportedClassifierOptions, entry.options)
    network, given, outputs, module, details = _opened(files, options)
    index, classes = outputs.vector()
    labels = _labels(options, files)
    if len(labels) != classes:
        raise WeightsError(f"{len(labels)} labels, but the network has {classes} classes ({outputs.shown()})")
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
        output=index,
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
            f"the file has {outputs.shown()}"
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
        raise WeightsError(f"the input is {_shown(given.item)}, but crops of faces are square and in colour")
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
