"""Darknet's `.cfg` -> typed layers, or an error that names file, line and section.

The keys and their defaults are those of https://github.com/AlexeyAB/darknet (`src/parser.c`). Keys that only
training reads are ignored; keys that would change what the network computes and are not supported here are
refused, so a network either computes what darknet does or does not load.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.detection.darknet.section import Place, Section, read_sections
from models.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Net:
    """`[net]`: the input's size in pixels, and whether training letterboxed images or stretched them."""

    place: Place
    width: int
    height: int
    letter_box: bool


@dataclass(frozen=True, slots=True)
class Convolutional:
    """`[convolutional]`; with `batch_normalize` the file holds scales, means and variances too."""

    place: Place
    filters: int
    size: int
    stride: int
    padding: int
    groups: int
    dilation: int
    batch_normalize: bool
    activation: str


@dataclass(frozen=True, slots=True)
class MaxPool:
    """`[maxpool]`; `padding` is the sum of both sides, the smaller half left and above."""

    place: Place
    size: int
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class AvgPool:
    """`[avgpool]`: the mean of each channel."""

    place: Place


@dataclass(frozen=True, slots=True)
class Route:
    """`[route]`: layers (absolute indices) concatenated; of each, group `group_id` of `groups`."""

    place: Place
    layers: tuple[int, ...]
    groups: int
    group_id: int


@dataclass(frozen=True, slots=True)
class Shortcut:
    """`[shortcut]`: the sum of the layer before and those of `layers` (absolute indices)."""

    place: Place
    layers: tuple[int, ...]
    activation: str


@dataclass(frozen=True, slots=True)
class ScaleChannels:
    """`[scale_channels]`: layer `layer` times the layer before, which has one value a channel."""

    place: Place
    layer: int
    activation: str


@dataclass(frozen=True, slots=True)
class Upsample:
    """`[upsample]`: nearest neighbour, times `scale`."""

    place: Place
    stride: int
    scale: float


@dataclass(frozen=True, slots=True)
class Reorg:
    """`[reorg]` of YOLOv2: space to depth, in darknet's own order."""

    place: Place
    stride: int


@dataclass(frozen=True, slots=True)
class Dropout:
    """`[dropout]`: nothing at inference; it counts as a layer."""

    place: Place


@dataclass(frozen=True, slots=True)
class Yolo:
    """`[yolo]` (v3 and later): `anchors` are width, height in input pixels, those of the mask only."""

    place: Place
    classes: int
    anchors: tuple[tuple[float, float], ...]
    scale_x_y: float
    new_coords: bool


@dataclass(frozen=True, slots=True)
class Region:
    """`[region]` (v2): `anchors` are width, height in cells of the last feature map."""

    place: Place
    classes: int
    anchors: tuple[tuple[float, float], ...]


Layer = (
    Convolutional
    | MaxPool
    | AvgPool
    | Route
    | Shortcut
    | ScaleChannels
    | Upsample
    | Reorg
    | Dropout
    | Yolo
    | Region
)


@dataclass(frozen=True, slots=True)
class Config:
    """A parsed file: the input and the layers in order, numbered from 0."""

    net: Net
    layers: tuple[Layer, ...]


def parse(text: str, file: str) -> Config:
    """Parses the text of a `.cfg`.

    Args:
        text: its content.
        file: its name, for messages.

    Raises:
        WeightsError: it does not parse, lacks a key, has a value out of range or an unknown section, or asks
            for something that would change the result and is not supported. Names file, line and section.
    """
    net, *layers = read_sections(text, file)
    net.refuse_unsupported()
    head = Net(
        net.place,
        width=net.integer("width", None, 1, 4096),
        height=net.integer("height", None, 1, 4096),
        letter_box=net.flag("letter_box"),
    )
    parsed = tuple(_layer(section, index) for index, section in enumerate(layers))
    if not any(isinstance(layer, Yolo | Region) for layer in parsed):
        raise WeightsError(f"{file}: no [yolo] and no [region] section: this is not a detector")
    return Config(head, parsed)


def _layer(section: Section, index: int) -> Layer:
    section.refuse_unsupported()
    place = section.place
    match section.kind:
        case "convolutional":
            return _convolutional(section)
        case "maxpool":
            stride = section.integer("stride", 1, 1, 32)
            size = section.integer("size", stride, 1, 64)
            return MaxPool(place, size, stride, padding=section.integer("padding", size - 1, 0, size))
        case "avgpool":
            return AvgPool(place)
        case "route":
            groups = section.integer("groups", 1, 1, 1 << 16)
            group_id = section.integer("group_id", 0, 0, groups - 1)
            return Route(place, section.layers("layers", index), groups, group_id)
        case "shortcut":
            return Shortcut(place, section.layers("from", index), section.activation("linear"))
        case "scale_channels":
            layer, *more = section.layers("from", index)
            if more:
                raise section.error("from", "from names more than one layer")
            return ScaleChannels(place, layer, section.activation("linear"))
        case "upsample":
            return Upsample(place, section.integer("stride", 2, 1, 32), section.real("scale", 1.0, -1e3, 1e3))
        case "reorg":
            return Reorg(place, section.integer("stride", 1, 1, 32))
        case "dropout":
            return Dropout(place)
        case "yolo":
            return _yolo(section)
        case "region":
            return Region(place, section.integer("classes", 20, 1, 10_000), section.anchors())
        case _:
            raise place.error("unknown section; this loader knows detectors of YOLO v2, v3 and v4")


def _convolutional(section: Section) -> Convolutional:
    size = section.integer("size", 1, 1, 31)
    return Convolutional(
        section.place,
        filters=section.integer("filters", 1, 1, 1 << 16),
        size=size,
        stride=section.integer("stride", 1, 1, 32),
        padding=size // 2 if section.flag("pad") else section.integer("padding", 0, 0, 31),
        groups=section.integer("groups", 1, 1, 1 << 16),
        dilation=1 if size == 1 else section.integer("dilation", 1, 1, 32),
        batch_normalize=section.flag("batch_normalize"),
        activation=section.activation("logistic"),
    )


def _yolo(section: Section) -> Yolo:
    anchors = section.anchors()
    every = ",".join(str(number) for number in range(len(anchors)))
    mask = section.integers("mask", every, 0, len(anchors) - 1)
    return Yolo(
        section.place,
        classes=section.integer("classes", 20, 1, 10_000),
        anchors=tuple(anchors[number] for number in mask),
        scale_x_y=section.real("scale_x_y", 1.0, 0.1, 10.0),
        new_coords=section.flag("new_coords"),
    )
