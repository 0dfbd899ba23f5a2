"""YOLO v2, v3, v4 and yolo-fastest from darknet's own files: a `.cfg`, a `.weights` and a `.names`.

The networks are those of Redmon and Farhadi, "YOLO9000" (https://arxiv.org/abs/1612.08242) and "YOLOv3"
(https://arxiv.org/abs/1804.02767), and of Bochkovskiy et al., "YOLOv4" (https://arxiv.org/abs/2004.10934).
Images are RGB, 0 to 1, and stretched to the canvas as darknet's `letter_box=0` does: yolo-fastest-1.1-xl
finds persons of COCO with an average precision (IoU 0.5) of 0.527 so, and of 0.513 letterboxed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import read_labels, require_files
from models.detection.darknet import cfg as cfg
from models.detection.darknet.layers import Shape, build_layer, sources
from models.detection.darknet.weights import load_weights
from models.detection.pipeline import DetectorOptions, DetectorPipeline
from models.errors import WeightsError
from models.image import Image, Letterbox, Pixels, stretch
from models.options import check_range, read_options
from models.pipeline import Kind
from models.weights import Entry

# exp(8) times an anchor is beyond any canvas already; untrained outputs must not become infinite,
# for one box without bounds would spoil the arithmetic of the whole batch's suppression.
_MAX_LOG_SIZE = 8.0
_MAX_VALUES = 1 << 28  # of one feature map


class Head(nn.Module):
    """`[yolo]` or `[region]`: Tensor[N, A * (5 + C), h, w] -> boxes and scores, cell by cell, anchors within.

    Args:
        layer: the section.
        grid: of the feature map.
        canvas: of the network's input.

    Raises:
        WeightsError: the channels that come in are not those of the anchors and classes.
    """

    whole = ("anchors",)
    cells: Tensor
    anchors: Tensor

    def __init__(self, layer: cfg.Yolo | cfg.Region, grid: Shape, canvas: Shape) -> None:
        super().__init__()
        wanted = len(layer.anchors) * (5 + layer.classes)
        if grid.channels != wanted:
            raise layer.place.error(
                f"{grid.channels} channels come in, its anchors and classes need {wanted}"
            )
        self.classes = layer.classes
        self.softmax = isinstance(layer, cfg.Region)
        self.scale = 1.0 if isinstance(layer, cfg.Region) else layer.scale_x_y
        self.new_coords = isinstance(layer, cfg.Yolo) and layer.new_coords
        self.stride = (canvas.width / grid.width, canvas.height / grid.height)
        rows, columns = torch.meshgrid(torch.arange(grid.height), torch.arange(grid.width), indexing="ij")
        # whole numbers stay exact when an executor turns the module into half precision
        self.register_buffer("cells", torch.stack((columns, rows), -1)[:, :, None], persistent=False)
        anchors = torch.tensor(layer.anchors)
        if isinstance(layer, cfg.Region):
            anchors = anchors * torch.tensor(self.stride)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Returns boxes Tensor[N, h*w*A, 4], xyxy canvas pixels, and scores Tensor[N, h*w*A, C]; float32."""
        n, _, h, w = raw.shape
        # [N, h, w, A, 5 + C], in float32: a half has too few bits for coordinates of hundreds of pixels
        raw = raw.float().reshape(n, len(self.anchors), 5 + self.classes, h, w).permute(0, 3, 4, 1, 2)
        centre, size, objectness, classes = torch.split(raw, [2, 2, 1, self.classes], dim=-1)
        if self.new_coords:  # the convolution before has a logistic activation
            size = (2 * size).square()
            scores = objectness * classes
        else:
            centre = centre.sigmoid()
            size = size.clamp(max=_MAX_LOG_SIZE).exp()
            scores = objectness.sigmoid() * (classes.softmax(-1) if self.softmax else classes.sigmoid())
        centre = centre * self.scale - (self.scale - 1) / 2 + self.cells
        x, y = centre[..., 0] * self.stride[0], centre[..., 1] * self.stride[1]
        half_width, half_height = (size * self.anchors / 2).unbind(-1)
        boxes = torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)
        return boxes.reshape(n, -1, 4), scores.reshape(n, -1, self.classes)


class Darknet(nn.Module):
    """A darknet detector; its convolutions have no memory until `weights.load_weights` fills them.

    Raises:
        WeightsError: the layers do not fit together; names file, line and section.
    """

    def __init__(self, config: cfg.Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList()
        self.heads = nn.ModuleList()
        self.sources = [sources(layer, index) for index, layer in enumerate(config.layers)]
        self.inputs: list[int] = []  # of each head
        canvas = Shape(3, config.net.height, config.net.width)
        shapes = {-1: canvas}
        for index, layer in enumerate(config.layers):
            for source in self.sources[index]:
                if source >= 0 and isinstance(config.layers[source], cfg.Yolo | cfg.Region):
                    raise layer.place.error(f"it reads layer {source}, whose output is detections")
            given = [shapes[source] for source in self.sources[index]]
            if isinstance(layer, cfg.Yolo | cfg.Region):
                self.heads.append(Head(layer, given[0], canvas))
                self.inputs.append(index - 1)
            module, shapes[index] = build_layer(layer, given)  # a head's is the identity
            self.layers.append(module)
            if shapes[index].height * shapes[index].width * shapes[index].channels > _MAX_VALUES:
                raise layer.place.error(f"its output {tuple(shapes[index])} is larger than any network needs")
        if not self.convolutions():
            raise config.net.place.error("no layer has weights")
        if len({head.classes for head in self._heads()}) > 1:
            raise config.layers[-1].place.error("the heads have different numbers of classes")
        self._last_use = {source: index for index, read in enumerate(self.sources) for source in read}

    @property
    def classes(self) -> int:
        """How many classes the heads have."""
        return self._heads()[0].classes

    def convolutions(self) -> list[tuple[cfg.Convolutional, nn.Conv2d]]:
        """Every section that has weights and the module that they go to, in the order of the file."""
        return [
            (section, convolution)
            for section, module in zip(self.config.layers, self.layers, strict=True)
            if isinstance(section, cfg.Convolutional) and isinstance(module, nn.Sequential)
            if isinstance(convolution := module[0], nn.Conv2d)
        ]

    def _heads(self) -> list[Head]:
        return [head for head in self.heads if isinstance(head, Head)]

    def raw(self, images: Tensor) -> list[Tensor]:
        """What the heads are given: uint8 Tensor[N, H, W, 3] -> a Tensor[N, A * (5 + C), h, w] a head."""
        x = images.permute(0, 3, 1, 2).to(next(self.parameters()).dtype) / 255
        outputs = {-1: x}
        found = []
        for index, (layer, read) in enumerate(zip(self.layers, self.sources, strict=True)):
            outputs[index] = layer(*(outputs[source] for source in read))
            if index in self.inputs:
                found.append(outputs[index])
            for source in read:  # release maps that no later layer reads: at 608 pixels they are large
                if self._last_use[source] == index:
                    outputs.pop(source, None)
        return found

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 Tensor[N, H, W, 3] -> boxes Tensor[N, A, 4] (xyxy canvas pixels), scores Tensor[N, A, C]."""
        decoded = [head(raw) for head, raw in zip(self.heads, self.raw(images), strict=True)]
        boxes, scores = zip(*decoded, strict=True)
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)


class DarknetPipeline(DetectorPipeline):
    """The pipeline of all detectors, but images are stretched to the canvas unless `letter_box`."""

    letter_box = False

    def fit(self, image: Image) -> tuple[Pixels, Letterbox]:
        """As `DetectorPipeline.fit`, or stretched."""
        if self.letter_box:
            return super().fit(image)
        return stretch(image, self.height, self.width)


@dataclass(frozen=True)
class DarknetOptions(DetectorOptions):
    """Options of the builder, besides those of all detectors (0.25 and 0.45, as darknet has them).

    Attributes:
        width, height: of the network's input, pixels, 32 to 4096; None: as the cfg's `[net]` says.
        letter_box: keeps the aspect ratio; None: as `[net]` says.

    Raises:
        ValueError: a value out of its range.
    """

    iou_threshold: float = 0.45
    width: int | None = None
    height: int | None = None
    letter_box: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None:
                check_range(name, side, 32, 4096)


def build(entry: Entry, files: Mapping[str, Path]) -> DarknetPipeline:
    """The builder ``darknet``; options as in `DarknetOptions`.

    Files:
        weights, config (the cfg), labels (class names, one a line).

    Raises:
        WeightsError: a file is missing, does not parse or does not fit the others, or an option is wrong.
    """
    require_files(files, ("weights", "config", "labels"), "a darknet model")
    options = read_options(DarknetOptions, entry.options)
    path = files["config"]
    config = cfg.parse(path.read_text(encoding="utf-8", errors="replace"), path.name)
    net = config.net
    net = replace(net, height=options.height or net.height, width=options.width or net.width)
    config = replace(config, net=net)
    network = Darknet(config)
    load_weights(network.convolutions(), files["weights"])
    labels = read_labels(files["labels"])
    if len(labels) != network.classes:
        raise WeightsError(
            f"{files['labels'].name}: {len(labels)} labels, but {path.name} has {network.classes} classes"
        )
    card = entry.card(
        Kind.DETECT,
        labels=labels,
        input=(net.height, net.width),
        details={"network": path.stem, "layers": len(config.layers)},
    )
    pipeline = DarknetPipeline(card, lambda: network, options)
    pipeline.letter_box = net.letter_box if options.letter_box is None else options.letter_box
    return pipeline
